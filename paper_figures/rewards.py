"""Rewards and controls: what each does to the trained questions and to fresh ones."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.plots import below, dots, level
from analysis.style import COLOURS

NAME = "rewards"
ARMS = (
    "oracle", "xs-30", "frozen", "soft", "gated", "weighted-mean-logprob", "weighted-self-certainty", "entropy",
    "self-certainty", "right-label", "wrong-label", "format", "random", "permuted", "minority",
)  # fmt: skip
SETS = ((0.13, "train", "blue", "trained questions"), (-0.13, "fresh", "red", "fresh questions"))


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """Gain in avg@16 by reward, from the highest on; and how far the base's first vote was."""
    runs = runs.shared(ARMS)
    order = sorted(ARMS, key=lambda arm: -runs.mean(arm, "gain"))
    names = ["majority" if arm == "xs-30" else arm for arm in order]
    figure, axis = plt.subplots(figsize=(5.6, 4.2))
    parts = []
    for offset, split, colour, label in SETS:
        table = runs.table([(arm, "gain", {"split": split}) for arm in order])
        dots(axis, table, names, COLOURS[colour], offset, label=label)
        parts.append(table)
    vote = runs.mean("xs-30", "base_best_maj") - runs.mean("xs-30", "base_avg")
    best = runs.mean("xs-30", "base_best_avg") - runs.mean("xs-30", "base_avg")
    level(axis, vote, "base's vote, best T", vertical=True, colour=COLOURS["green"])
    level(axis, best, "base's best, T chosen", vertical=True, colour=COLOURS["orange"])
    level(axis, 0.0, "no gain", vertical=True)
    axis.set(xlabel="gain in avg@16 (mini-xs, mini-30)")
    below(axis)
    return figure, pd.concat(parts, ignore_index=True)


if __name__ == "__main__":
    script(NAME, ARMS, draw)
