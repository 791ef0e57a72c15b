"""Model size: what the base can do and what TTRL adds, by task."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.plots import below, points
from analysis.style import COLOURS

NAME = "model_size"
SIZES = {"xs": 0.2, "s": 0.9, "m": 2.8}  # M parameters
TASKS = ("30", "83", "500")
ARMS = tuple(f"{size}-{task}" for task in TASKS for size in SIZES)
MEASURES = {
    "base avg@16": ("base_avg", "sky", "o"),
    "base maj@64, best T": ("base_best_maj", "blue", "s"),
    "TTRL avg@16": ("avg", "red", "D"),
}


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """A panel per task; mean and interval over replicates."""
    figure, axes = plt.subplots(1, 3, figsize=(9.0, 3.0), sharey=True)
    parts = []
    for axis, task in zip(axes, TASKS, strict=True):
        these = runs.shared([f"{size}-{task}" for size in SIZES])
        for label, (measure, colour, marker) in MEASURES.items():
            table = these.table([(f"{size}-{task}", measure, {}) for size in SIZES])
            points(axis, list(SIZES.values()), table, label, COLOURS[colour], f"{marker}-")
            parts.append(table.assign(parameters=list(SIZES.values())))
        axis.set_xscale("log")
        axis.set(title=f"mini-{task}", xlabel="M parameters", ylim=(0, 1))
        axis.set_xticks(list(SIZES.values()), [f"{size:g}" for size in SIZES.values()])
        axis.minorticks_off()
    axes[0].set_ylabel("accuracy")
    below(axes[1], 3)
    return figure, pd.concat(parts, ignore_index=True)


if __name__ == "__main__":
    script(NAME, ARMS, draw)
