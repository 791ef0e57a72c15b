"""Label accuracy at a step against pass@1 some steps later, on disjoint samples, across runs.

The labels of step t are voted from its own samples; pass@1 is of the rollout LATER steps on, other samples of later
weights. So the two share no sample, and a correlation is none of sampling noise. Nor do labels' margin over pass@1 at
step t and the change of pass@1 from step t + 1 on.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.measures import estimated
from analysis.plots import CYCLE, dots

NAME = "label_accuracy_and_pass1"
ARMS = ("xs-30", "s-30", "m-30", "xs-83", "s-83", "s-loss-mix", "frozen", "random", "permuted", "minority", "oracle")
LATER = 5
METRICS = ("label_accuracy", "ground_truth_ratio")
COLUMNS = ["arm", "run", "step", "label_accuracy", "pass1_later", "margin", "change"]
EVERY = 5  # steps between two points of a run


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """Left: points. Right: what predicts the change of pass@1 over the next steps, a correlation a run, by arm."""
    figure, (points, change) = plt.subplots(1, 2, figsize=(8.2, 3.6))
    rows = []
    for arm in ARMS:
        for run in runs.of(arm).values():
            labels, right = (runs.measurements.metric(run["run"], name) for name in METRICS)
            for step in sorted(labels)[::EVERY]:
                later = step + 1 + LATER
                if later in right:
                    margin, change_later = labels[step] - right[step], right[later] - right[step + 1]
                    rows.append([arm, run["run"], step, labels[step], right[step + LATER], margin, change_later])
    table = pd.DataFrame(rows, columns=COLUMNS)
    for i, arm in enumerate(ARMS):
        part = table[table["arm"] == arm]
        points.plot(
            part["label_accuracy"],
            part["pass1_later"],
            "o^sv"[i // len(CYCLE)],
            color=CYCLE[i % len(CYCLE)],
            markersize=2.5,
            alpha=0.6,
            label=arm,
        )
    points.plot([0, 1], [0, 1], "--", color="black", linewidth=0.8)
    points.set(xlabel="label accuracy at step t", ylabel=f"pass@1 at step t + {LATER}", xlim=(0, 1), ylim=(0, 1))
    points.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=4, handlelength=1, columnspacing=1)
    slopes = []
    for arm in ARMS:
        part = table[table["arm"] == arm]
        found = [_slope(group) for _, group in part.groupby("run") if group["margin"].nunique() > 1]
        if found:
            slopes.append([arm, *estimated(found)])
    rows_of_slopes = pd.DataFrame(slopes, columns=["arm", "n", "value", "low", "high"])
    dots(change, rows_of_slopes, list(rows_of_slopes["arm"]))
    change.axvline(0, color="black", linestyle="--", linewidth=0.8)
    change.set(xlabel=f"change of pass@1 over {LATER} steps per unit of\n(label accuracy - pass@1), slope within runs")
    return figure, table


def _slope(group: pd.DataFrame) -> float:
    return float(np.polyfit(group["margin"], group["change"], 1)[0])


if __name__ == "__main__":
    script(NAME, ARMS, draw)
