"""Dose and response: true labels for a share of the questions, wrong ones, scattered or modal, for the rest."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.plots import below, level, points
from analysis.style import COLOURS

NAME = "noisy_oracle"
DOSES = (20, 40, 60, 80)
KINDS = {
    "random": ("wrong labels scattered", "blue", "o"),
    "modal": ("wrong labels the favourite wrong answer", "red", "s"),
}
ARMS = (*(f"noisy-{kind}-{dose}" for kind in KINDS for dose in DOSES), "oracle", "permuted", "xs-30")


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """Gain in avg@16 by share of true labels; the votes' own gain at the label accuracy that they had at first."""
    figure, axis = plt.subplots(figsize=(4.6, 3.4))
    runs, parts = runs.shared(ARMS), []
    for kind, (label, colour, marker) in KINDS.items():
        arms = [*(f"noisy-{kind}-{dose}" for dose in DOSES), "oracle"]
        table = runs.table([(arm, "gain", {}) for arm in arms]).assign(dose=[dose / 100 for dose in (*DOSES, 100)])
        points(axis, table["dose"], table, label, COLOURS[colour], f"{marker}-")
        parts.append(table.assign(kind=kind))
    votes = runs.table([("xs-30", "gain", {})])
    first = runs.mean("xs-30", "label_accuracy", at="first")
    points(axis, [first], votes, "majority votes", COLOURS["green"], "D")
    none = runs.table([("permuted", "gain", {})])
    level(axis, 0.0, "no gain")
    axis.set(xlabel="share of true labels (of votes: at step 1)", ylabel="gain in avg@16")
    below(axis, 1)
    return figure, pd.concat([*parts, votes.assign(kind="votes", dose=first), none.assign(kind="permuted")])


if __name__ == "__main__":
    script(NAME, ARMS, draw)
