"""What a gain is made of: samples that end, that give an answer, and answers that are right."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.plots import below
from analysis.style import COLOURS

NAME = "decomposition"
ARMS = ("xs-30", "s-30", "m-30", "xs-500", "s-500", "m-500", "s-format", "s-oracle", "random", "permuted")
PARTS = {
    "termination": ("termination_part", "sky"),
    "format": ("format_part", "orange"),
    "right answers": ("reasoning_part", "red"),
}


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """Mean contributions (Shapley values) to the gain in avg@16 as bars, the gain itself with its interval."""
    figure, axis = plt.subplots(figsize=(6.0, 3.6))
    y = np.arange(len(ARMS))[::-1]
    tables = {}
    above, beneath = np.zeros(len(ARMS)), np.zeros(len(ARMS))
    for label, (measure, colour) in PARTS.items():
        tables[label] = table = runs.table([(arm, measure, {}) for arm in ARMS])
        value = table["value"].to_numpy()
        start = np.where(value >= 0, above, beneath)
        axis.barh(y, value, left=start, color=COLOURS[colour], height=0.6, label=label)
        above, beneath = above + np.maximum(value, 0), beneath + np.minimum(value, 0)
    tables["gain"] = gain = runs.table([(arm, "gain", {}) for arm in ARMS])
    value = gain["value"].to_numpy()
    errors = np.nan_to_num(np.vstack([value - gain["low"], gain["high"] - value]))
    axis.errorbar(value, y, xerr=errors, fmt="D", color="black", markersize=3, elinewidth=1, capsize=2, label="gain")
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(y, ARMS)
    axis.set(xlabel="part of the gain in avg@16")
    axis.grid(visible=False, axis="y")
    below(axis, 4)
    return figure, pd.concat([table.assign(part=part) for part, table in tables.items()], ignore_index=True)


if __name__ == "__main__":
    script(NAME, ARMS, draw)
