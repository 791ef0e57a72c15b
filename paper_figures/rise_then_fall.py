"""Ten times the steps at a constant learning rate: does what rises fall again?"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.measures import estimated
from analysis.plots import below, curve, level, long, points
from analysis.style import COLOURS

NAME = "rise_then_fall"
ARMS = ("long-30", "xs-30")
IN_TRAINING = {"ground_truth_ratio": ("average, in training (T=1)", "red"), "label_accuracy": ("vote", "blue")}
SIGNS = {"majority_ratio": ("majority ratio", "orange"), "top_answer_share": ("share of the commonest answer", "black")}
EVALUATED = "avg@16, evaluated (T=0.6)"


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """Left: accuracy in training, every run thin, and evaluated; levels are of the same protocol as their colour.

    Right: what a label-free watch sees.
    """
    figure, (accuracy, signs) = plt.subplots(1, 2, figsize=(7.6, 3.3))
    tables = {}
    for axis, metrics in ((accuracy, IN_TRAINING), (signs, SIGNS)):
        for metric, (label, colour) in metrics.items():
            tables[metric] = table = runs.curve("long-30", metric)
            curve(axis, table, label, COLOURS[colour])
            for run in runs.of("long-30").values():
                own = runs.measurements.metric(run["run"], metric)
                axis.plot(list(own), list(own.values()), color=COLOURS[colour], linewidth=0.4, alpha=0.5)
        axis.set(xlabel="step", ylim=(0, 1))
    tables[EVALUATED] = table = _evaluated(runs)
    points(accuracy, table["step"], table, EVALUATED, COLOURS["green"], "D-")
    level(accuracy, runs.mean("xs-30", "avg"), "the same after 40 steps (cosine)", colour=COLOURS["green"])
    accuracy.set_title("accuracy")
    signs.set_title("label-free signs")
    below(accuracy, 1)
    below(signs)
    return figure, long(tables)


def _evaluated(runs: Runs) -> pd.DataFrame:
    """avg@k on the trained questions at every evaluated step, mean and interval over replicates."""
    found: dict[int, list[float]] = {}
    for run in runs.of("long-30").values():
        for (task, split, step, t), samples in runs.measurements.samples(run["run"]).items():
            if (task, split, t) == (run["trained_task"], "train", run["temperature"]):
                found.setdefault(step, []).append(float((samples.first(run["k"]).codes_QN == 0).mean()))
    rows = [[step, *estimated(values)] for step, values in sorted(found.items())]
    return pd.DataFrame(rows, columns=["step", "n", "value", "low", "high"])


if __name__ == "__main__":
    script(NAME, ARMS, draw)
