"""Figure 6: the average sample and the vote over training, and the base's first vote; ours beside the paper's (AMC)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.paper import curve as paper_curve
from analysis.plots import below, curve, level, long
from analysis.style import COLOURS
from ttrl_repro.tasks import load_task

NAME = "fig06_average_and_vote"
ARMS = ("s-30", "s-83", "s-500")


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """Ours in training: avg and maj of the step's 64 votes at T=1; the paper's avg@16 and maj@16."""
    figure, axes = plt.subplots(1, 4, figsize=(9.6, 3.1), sharey=True)
    tables = {}
    for axis, arm in zip(axes, ARMS, strict=False):
        experiment = runs.config(arm)
        average, vote = (_by_epoch(runs, arm, metric) for metric in ("ground_truth_ratio", "label_accuracy"))
        tables |= {f"{arm} avg": average, f"{arm} maj": vote}
        _panel(axis, average, vote, f"{experiment.model}, {experiment.task}")
    average, vote = paper_curve("fig6_avg16"), paper_curve("fig6_maj16")
    tables |= {"paper avg@16": average, "paper maj@16": vote}
    _panel(axes[3], average, vote, "the paper: 1.5B, AMC")
    axes[0].set_ylabel("accuracy")
    for axis in axes:
        below(axis, 1)
    return figure, long(tables)


def _by_epoch(runs: Runs, arm: str, metric: str) -> pd.DataFrame:
    """A metric's curve; where a step takes a batch, means over whole epochs, as batches are different questions."""
    table, experiment = runs.curve(arm, metric), runs.config(arm)
    questions = len(load_task(experiment.task).questions)
    steps = -(-questions // (experiment.train.questions_per_step or questions))
    if steps == 1:
        return table
    means = table.groupby((table["step"] - 1) // steps)[["step", "value", "low", "high"]].mean()
    return means.reset_index(drop=True)


def _panel(axis: Axes, average: pd.DataFrame, vote: pd.DataFrame, title: str) -> None:
    curve(axis, vote, "vote (maj)", COLOURS["blue"])
    curve(axis, average, "average (avg)", COLOURS["red"])
    level(axis, float(vote["value"].iloc[0]), "first vote")
    axis.set(title=title, xlabel="step")


if __name__ == "__main__":
    script(NAME, ARMS, draw)
