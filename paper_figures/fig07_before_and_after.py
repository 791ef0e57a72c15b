"""Figure 7: average and vote of 64 samples before and after, ours beside the paper's (Qwen2.5-Math-7B)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.paper import tables
from analysis.plots import below, dots
from analysis.style import COLOURS

NAME = "fig07_before_and_after"
ARMS = ("s-30", "s-83", "s-500")
MEASURES = {"base avg": "base_avg", "base maj": "base_maj", "TTRL avg": "avg", "TTRL maj": "maj"}
MARKS = {"base avg": ("sky", "o"), "base maj": ("blue", "s"), "TTRL avg": ("orange", "o"), "TTRL maj": ("red", "s")}


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """Ours: avg@16 and maj@64 at T=0.6, mean and interval over replicates. The paper's has no intervals."""
    figure, (ours, paper) = plt.subplots(1, 2, figsize=(7.2, 2.9))
    parts = []
    for i, (label, measure) in enumerate(MEASURES.items()):
        table = runs.table([(arm, measure, {}) for arm in ARMS])
        names = [f"{runs.config(arm).model}\n{runs.config(arm).task}" for arm in ARMS]
        colour, marker = MARKS[label]
        dots(ours, table, names, COLOURS[colour], 0.24 - 0.16 * i, marker, label)
        parts.append(table.assign(source="ours", measure=label))
        own = tables()
        own = own[(own["where"] == "figure 7") & (own["quantity"] == f"{label}@64")]
        theirs = pd.DataFrame({"value": own["value"] / 100, "low": float("nan"), "high": float("nan")})
        dots(paper, theirs, list(own["benchmark"]), COLOURS[colour], 0.24 - 0.16 * i, marker, label)
        parts.append(theirs.assign(source="paper", arm="Qwen2.5-Math-7B", measure=label, task=list(own["benchmark"])))
    for axis, title in ((ours, "ours"), (paper, "the paper: Qwen2.5-Math-7B")):
        axis.set(title=title, xlabel="accuracy", xlim=(0, 1))
        below(axis, 4)
    return figure, pd.concat(parts, ignore_index=True)


if __name__ == "__main__":
    script(NAME, ARMS, draw)
