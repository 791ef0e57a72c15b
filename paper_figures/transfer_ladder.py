"""Out-of-distribution transfer on the laboratory's ladder: from the task itself to where its lesson is wrong."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.plots import dots, level

NAME = "transfer_ladder"
ARMS = ("xs-30", "xs-83", "xs-500")
LADDER = {
    "same questions": ("trained", "train"),
    "new numbers": ("trained", "fresh"),
    "other lengths": ("transfer-lengths", "train"),
    "in words": ("transfer-words", "train"),
    "a bracket": ("transfer-brackets", "train"),
    "another skill (largest)": ("transfer-largest", "train"),
    "where the lesson is wrong (marked)": ("transfer-marked", "train"),
}


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """Gain in avg@16 on every rung, a panel per task trained on."""
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 2.9), sharey=True, sharex=True)
    parts = []
    for axis, arm in zip(axes, ARMS, strict=True):
        table = runs.table([(arm, "gain", {"task": task, "split": split}) for task, split in LADDER.values()])
        dots(axis, table, list(LADDER))
        level(axis, 0.0, "no gain", vertical=True)
        axis.set(title=f"trained on {runs.config(arm).task}", xlabel="gain in avg@16")
        parts.append(table.assign(rung=list(LADDER)))
    return figure, pd.concat(parts, ignore_index=True)


if __name__ == "__main__":
    script(NAME, ARMS, draw)
