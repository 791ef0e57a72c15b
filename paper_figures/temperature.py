"""Temperature of the votes: first labels, agreement, and the model that they make."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.plots import CYCLE, below, points

NAME = "temperature"
TEMPERATURES = (0.6, 1.0, 1.4)
RATES = ("3e-5", "1e-4", "3e-4")
ARMS = tuple(f"T{t:.1f}-lr{rate}-q30" for rate in RATES for t in TEMPERATURES)
MEASURES = {
    "label accuracy at step 1": ("label_accuracy", "first"),
    "majority ratio at step 1": ("majority_ratio", "first"),
    "avg@16 after training": ("avg", "end"),
}


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """A panel per measure, a line per learning rate."""
    figure, axes = plt.subplots(1, 3, figsize=(9.0, 2.9))
    runs, parts = runs.shared(ARMS), []
    for axis, (title, (measure, at)) in zip(axes, MEASURES.items(), strict=True):
        for i, rate in enumerate(RATES):
            table = runs.table([(f"T{t:.1f}-lr{rate}-q30", measure, {"at": at}) for t in TEMPERATURES])
            x = np.array(TEMPERATURES) + 0.02 * (i - 1)
            points(axis, x, table, f"learning rate {rate}", CYCLE[i], "o-")
            parts.append(table.assign(temperature=TEMPERATURES, learning_rate=rate, at=at))
        axis.set(title=title, xlabel="temperature of the votes")
    below(axes[1], 3)
    return figure, pd.concat(parts, ignore_index=True)


if __name__ == "__main__":
    script(NAME, ARMS, draw)
