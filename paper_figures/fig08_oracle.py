"""Figure 8: TTRL against RL with true labels on the same questions, ours beside the paper's (MATH-500, 7B)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.paper import curve as paper_curve
from analysis.plots import below, curve, long
from analysis.style import COLOURS

NAME = "fig08_oracle"
OURS = {"TTRL": "s-30", "true labels": "s-oracle", "frozen labels": "s-frozen", "format reward": "s-format"}
ARMS = tuple(OURS.values())
PAPER = {"TTRL": "fig8_TTRL", "true labels": "fig8_RL_leakage"}
LOOK = {
    "TTRL": (COLOURS["red"], "-"),
    "true labels": (COLOURS["blue"], "-"),
    "frozen labels": (COLOURS["orange"], "--"),
    "format reward": (COLOURS["black"], ":"),
}


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """Ours in training (avg@64 at T=1), with the labels frozen at the first vote and the format reward beside."""
    figure, (ours, paper) = plt.subplots(1, 2, figsize=(7.2, 3.0))
    tables = {}
    for label, arm in OURS.items():
        tables[label] = table = runs.curve(arm, "ground_truth_ratio")
        curve(ours, table, label, *LOOK[label])
    for label, name in PAPER.items():
        tables[f"paper {label}"] = table = paper_curve(name)
        curve(paper, table, label, *LOOK[label])
    ours.set(title="ours: mini-s, mini-30", xlabel="step", ylabel="accuracy")
    paper.set(title="the paper: Qwen2.5-Math-7B, MATH-500", xlabel="step", ylabel="accuracy")
    below(ours)
    below(paper)
    return figure, long(tables)


if __name__ == "__main__":
    script(NAME, ARMS, draw)
