"""Figure 5: RL algorithms on the same questions, ours beside the paper's (MATH-500, Qwen2.5-Math-1.5B)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.paper import curve as paper_curve
from analysis.plots import CYCLE, DASHES, below, curve, long

NAME = "fig05_algorithms"
ALGORITHMS = ("grpo", "ppo", "prime", "rloo", "dr-grpo", "dapo", "reinforce-pp")
ARMS = ALGORITHMS
PAPER = {"GRPO": "grpo", "PPO": "ppo", "PRIME": "prime"}


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """Accuracy and entropy over steps; ours in training (avg@64 at the rollout's temperature)."""
    figure, axes = plt.subplots(2, 2, figsize=(7.2, 5.6))
    runs, tables = runs.shared(ALGORITHMS), {}
    for (accuracy, entropy), title in zip(axes, ("ours", "the paper"), strict=True):
        accuracy.set(title=f"{title}: accuracy", xlabel="step", ylabel="accuracy")
        entropy.set(title=f"{title}: entropy", xlabel="step", ylabel="nats per token")
    for i, arm in enumerate(ALGORITHMS):
        for axis, metric in zip(axes[0], ("ground_truth_ratio", "entropy"), strict=True):
            tables[f"{arm} {metric}"] = table = runs.curve(arm, metric)
            curve(axis, table, arm, CYCLE[i], DASHES[i % 2])
    for label, arm in PAPER.items():
        for axis, (name, metric) in zip(axes[1], (("fig5a", "accuracy"), ("fig5b", "entropy")), strict=True):
            table = paper_curve(f"{name}_{metric}_{label}")
            tables[f"paper {label} {metric}"] = table
            curve(axis, table, label, CYCLE[ALGORITHMS.index(arm)])
    for axis in axes[:, 0]:
        below(axis, 4)
    return figure, long(tables)


if __name__ == "__main__":
    script(NAME, ARMS, draw)
