"""Ten times the steps at a constant learning rate: does what rises fall again?"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.plots import below, curve, level, long
from analysis.style import COLOURS

NAME = "rise_then_fall"
ARMS = ("long-30", "xs-30")
ACCURACIES = {"ground_truth_ratio": ("average", "red"), "label_accuracy": ("vote", "blue")}
SIGNS = {"majority_ratio": ("majority ratio", "orange"), "top_answer_share": ("share of the commonest answer", "black")}


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """Left: accuracy, every run thin. Right: what a label-free watch sees."""
    figure, (accuracy, signs) = plt.subplots(1, 2, figsize=(7.6, 3.1))
    tables = {}
    for axis, metrics in ((accuracy, ACCURACIES), (signs, SIGNS)):
        for metric, (label, colour) in metrics.items():
            tables[metric] = table = runs.curve("long-30", metric)
            curve(axis, table, label, COLOURS[colour])
            for run in runs.of("long-30").values():
                own = runs.measurements.metric(run["run"], metric)
                axis.plot(list(own), list(own.values()), color=COLOURS[colour], linewidth=0.4, alpha=0.5)
        axis.set(xlabel="step", ylim=(0, 1))
    level(accuracy, runs.estimate("long-30", "base_best_maj").value, "base's vote, best T")
    level(accuracy, runs.estimate("xs-30", "avg").value, "after 40 steps (cosine)", colour=COLOURS["green"])
    accuracy.set_title("accuracy in training")
    signs.set_title("label-free signs")
    below(accuracy)
    below(signs)
    return figure, long(tables)


if __name__ == "__main__":
    script(NAME, ARMS, draw)
