"""Figure 4, out-of-distribution transfer: trained on one task, evaluated on the others, ours and the paper's."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.paper import tables
from analysis.plots import below, dots
from analysis.style import COLOURS

NAME = "fig04_transfer"
TASKS = ("mini-30", "mini-83", "mini-500")
TRAINED = {"xs-30": "mini-30", "xs-83": "mini-83", "xs-500": "mini-500"}
ARMS = tuple(TRAINED)
BENCHMARKS = ("AIME 2024", "AMC", "MATH-500")


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """Greedy accuracy of the base and after training, ours over replicates; the task trained on is marked."""
    figure, axes = plt.subplots(2, 3, figsize=(9.0, 4.2), sharex=True)
    parts = []
    for axis, (arm, trained) in zip(axes[0], TRAINED.items(), strict=True):
        names = [f"{task}{' (trained on)' if task == trained else ''}" for task in TASKS]
        for offset, label, measure, colour in ((0.12, "base", "base_greedy", "sky"), (-0.12, "TTRL", "greedy", "red")):
            table = runs.table([(arm, measure, {"task": task}) for task in TASKS])
            dots(axis, table, names, COLOURS[colour], offset, label=label)
            parts.append(table.assign(source="ours"))
        axis.set(title=f"trained on {trained}", xlabel="greedy accuracy", xlim=(0, 1))
    own = tables()
    own = own[own["where"] == "figure 4"]
    for axis, trained in zip(axes[1], BENCHMARKS, strict=True):
        for offset, label, colour in ((0.12, "base", "sky"), (-0.12, "TTRL", "red")):
            found = own[own["quantity"] == f"{label} greedy, trained on {trained}"]
            table = pd.DataFrame({"value": found["value"] / 100, "low": float("nan"), "high": float("nan")})
            dots(axis, table, list(found["benchmark"]), COLOURS[colour], offset, label=label)
            named = {"arm": f"paper, trained on {trained}", "measure": f"{label} greedy"}
            parts.append(table.assign(source="paper", **named, task=list(found["benchmark"])))
        axis.set(title=f"the paper: trained on {trained}", xlabel="greedy accuracy", xlim=(0, 1))
    below(axes[1, 1])
    return figure, pd.concat(parts, ignore_index=True)


if __name__ == "__main__":
    script(NAME, ARMS, draw)
