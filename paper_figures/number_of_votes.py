"""Votes a question N: the first labels, and the model that they make; with half of N trained on, and with 4."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.plots import below, points
from analysis.style import COLOURS

NAME = "number_of_votes"
HALF = {4: "votes-4-2", 16: "votes-16-8", 32: "votes-32-16", 64: "xs-30", 128: "votes-128-64"}
FOUR = {n: f"votes-{n}-4" for n in (4, 8, 16, 32, 64, 128)}
ARMS = tuple(dict.fromkeys([*HALF.values(), *FOUR.values()]))
LINES = (("half of N trained on", HALF, "blue", "o"), ("4 trained on", FOUR, "red", "s"))


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """First label accuracy, avg@16 after training, and both against the answers sampled."""
    figure, axes = plt.subplots(1, 3, figsize=(9.0, 3.1))
    runs, parts = runs.shared(ARMS), []
    for label, arms, colour, marker in LINES:
        first = _rows(runs, arms, "label_accuracy", at="first")
        end = _rows(runs, arms, "avg")
        cost = [np.mean([run["steps_done"] for run in runs.of(arm).values()]) * 30 * n for n, arm in arms.items()]
        points(axes[0], list(arms), first, label, COLOURS[colour], f"{marker}-")
        points(axes[1], list(arms), end, label, COLOURS[colour], f"{marker}-")
        points(axes[2], cost, end, label, COLOURS[colour], f"{marker}-")
        parts += [first.assign(n=list(arms), kind=label), end.assign(n=list(arms), kind=label, samples=cost)]
    axes[0].set(xlabel="votes N", ylabel="label accuracy at step 1")
    axes[1].set(xlabel="votes N", ylabel="avg@16 after training")
    axes[2].set(xlabel="answers sampled in training", ylabel="avg@16 after training")
    for axis in axes:
        axis.set_xscale("log", base=2)
    below(axes[1])
    return figure, pd.concat(parts, ignore_index=True)


def _rows(runs: Runs, arms: dict[int, str], measure: str, **where: str) -> pd.DataFrame:
    return runs.table([(arm, measure, where) for arm in arms.values()])


if __name__ == "__main__":
    script(NAME, ARMS, draw)
