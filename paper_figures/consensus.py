"""Who gains: questions by how far the base's samples agree, and by how often they are right."""

from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.measures import estimated, gains_Q
from analysis.plots import CYCLE, below, level, points
from ttrl_repro.stats import majority_ratio_Q

NAME = "consensus"
ARMS = ("xs-30", "s-30", "m-30", "s-loss-mix")
BOUNDS = ["n", "value", "low", "high"]
EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """Gain in avg@16 by quarter of the base's majority ratio, and of its pass rate; mean over replicates."""
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.0), sharey=True)
    rows = []
    for arm in ARMS:
        for run in runs.of(arm).values():
            _, pair = runs.measurements.evaluations(run, run["trained_task"], "train", run["steps_done"])
            # Sorted by other samples than those that the gain is measured on: no regression to the mean.
            codes_QN, gain_Q = pair.base.rest(pair.k).codes_QN, gains_Q(pair)
            rate_Q = (codes_QN == 0).mean(axis=1)
            for by, values_Q in (("majority ratio", majority_ratio_Q(codes_QN)), ("pass rate", rate_Q)):
                for i in range(len(EDGES) - 1):
                    inside = (values_Q > EDGES[i]) & (values_Q <= EDGES[i + 1]) | (i == 0) & (values_Q == 0)
                    if inside.any():
                        rows.append([arm, run["run"], by, i, int(inside.sum()), float(gain_Q[inside].mean())])
    table = pd.DataFrame(rows, columns=["arm", "run", "by", "quarter", "questions", "gain"])
    for axis, by in zip(axes, ("majority ratio", "pass rate"), strict=True):
        for i, arm in enumerate(ARMS):
            part = table[(table["by"] == by) & (table["arm"] == arm)].groupby("quarter")["gain"]
            found = {quarter: estimated(group.to_numpy()) for quarter, group in part}
            means = pd.DataFrame(list(found.values()), columns=BOUNDS)
            points(axis, np.array(list(found)) + 0.08 * (i - 1.5), means, arm, CYCLE[i], "o")
        level(axis, 0.0, "no gain")
        labels = [f"{low:g} to {high:g}" for low, high in pairwise(EDGES)]
        axis.set_xticks(range(len(EDGES) - 1), labels)
        axis.set(xlabel=f"the base's {by} on a question")
    axes[0].set_ylabel("gain in avg@16")
    below(axes[0], 3)
    return figure, table


if __name__ == "__main__":
    script(NAME, ARMS, draw)
