"""pass@k before and after: what one sample gains, and what many lose."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.measures import estimated
from analysis.plots import below, curve
from analysis.style import COLOURS
from ttrl_repro.stats import pass_at_k

NAME = "pass_at_k"
ARMS = ("s-30", "s-83", "s-500", "s-oracle")
KS = (1, 2, 4, 8, 16, 32, 64)


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """A panel per arm; at the evaluation temperature, on the trained questions."""
    figure, axes = plt.subplots(1, 4, figsize=(9.6, 2.9), sharey=True)
    parts = []
    for axis, arm in zip(axes, ARMS, strict=True):
        for label, at, colour in (("base", 0, "sky"), ("after training", None, "red")):
            rows = []
            for k in KS:
                values = []
                for run in runs.of(arm).values():
                    step = run["steps_done"] if at is None else at
                    where = (run["trained_task"], "train", step, run["temperature"])
                    values.append(pass_at_k(runs.measurements.samples(run["run"])[where].codes_QN, k))
                rows.append([k, *estimated(values)])
            table = pd.DataFrame(rows, columns=["step", "n", "value", "low", "high"])
            curve(axis, table, label, COLOURS[colour])
            parts.append(table.assign(arm=arm, series=label))
        experiment = runs.config(arm)
        axis.set_xscale("log", base=2)
        axis.set(title=f"{experiment.task}, {experiment.reward.name}", xlabel="k")
    axes[0].set_ylabel("pass@k")
    below(axes[1])
    return figure, pd.concat(parts, ignore_index=True).rename(columns={"step": "k"})


if __name__ == "__main__":
    script(NAME, ARMS, draw)
