"""Figure 11: temperature, questions an update and learning rate; at equal samples and at equal updates."""

from __future__ import annotations

from itertools import product

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.paper import curve as paper_curve
from analysis.plots import CYCLE, below, curve, heat

NAME = "fig11_failures"
TEMPERATURES, RATES, QUESTIONS = (0.6, 1.0, 1.4), ("3e-5", "1e-4", "3e-4"), (30, 10, 5)
PAPER = {
    "as published": "fig11_successful",
    "T = 0.6": "fig11_temperature0.6",
    "batch of 256": "fig11_train_batch256",
}


def arm(temperature: float, rate: str, questions: int, equal: str) -> str:
    """The arm's name (analysis/arms.yaml)."""
    return f"T{temperature:.1f}-lr{rate}-q{questions}" + ("-40" if equal == "updates" and questions != 30 else "")


CELLS = [(t, r, q, e) for e, t, r, q in product(("samples", "updates"), TEMPERATURES, RATES, QUESTIONS)]
ARMS = tuple(dict.fromkeys(arm(*cell) for cell in CELLS))


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """Gain in avg@16, a map per temperature and kind of equality; the paper's three curves."""
    runs = runs.shared(ARMS)
    gains = runs.table([(arm(*cell), "gain", {}) for cell in CELLS])
    table = pd.DataFrame(CELLS, columns=["temperature", "learning_rate", "questions", "equal"])
    table = table.assign(gain=gains["value"], low=gains["low"], high=gains["high"], n=gains["n"])
    reach = max(float(table["gain"].abs().max()), 0.05)
    figure, axes = plt.subplots(2, 4, figsize=(9.6, 4.8))
    for row, equal in zip(axes, ("samples", "updates"), strict=True):
        for axis, temperature in zip(row, TEMPERATURES, strict=False):
            part = table[(table["equal"] == equal) & (table["temperature"] == temperature)]
            grid = part.pivot(index="learning_rate", columns="questions", values="gain").loc[
                list(RATES), list(QUESTIONS)
            ]
            heat(axis, grid, reach, ("learning rate", "questions an update"))
            axis.set_title(f"T = {temperature}, equal {equal}")
    for i, (label, name) in enumerate(PAPER.items()):
        curve(axes[0, 3], paper_curve(name), label, CYCLE[i])
    axes[0, 3].set(title="the paper: AIME 2024", xlabel="step", ylabel="accuracy")
    below(axes[0, 3], 1)
    axes[1, 3].axis("off")
    return figure, table


if __name__ == "__main__":
    script(NAME, ARMS, draw)
