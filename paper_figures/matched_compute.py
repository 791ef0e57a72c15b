"""Matched compute: TTRL against the base's vote, by answers sampled and by FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.measures import estimated
from analysis.plots import CYCLE, below, curve
from ttrl_repro.stats import maj_at_k

NAME = "matched_compute"
ARMS = ("xs-30", "s-30", "m-30")
KS = (1, 2, 4, 8, 16, 32, 64)
TRAINING = {"ground_truth_ratio": "TTRL: average", "label_accuracy": "TTRL: vote"}
BASE = "base's vote (top-p .95)"
# A token sampled takes 2 FLOPs a parameter, one trained on 6 (docs/record.md).
SAMPLED, TRAINED = 2.0, 6.0


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """The base's vote over k of its 64 evaluated answers, and TTRL's average and vote in training, all at T=1.

    Above by answers sampled a question, below by FLOPs a parameter and question, training included. The base is
    evaluated with top-p .95, rollouts are sampled with 1: that favours the base. Nothing is said of votes over more
    than 64.
    """
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 5.6), sharey=True)
    parts = []
    for column, arm in zip(axes.T, ARMS, strict=True):
        config = runs.config(arm)
        answers, flops = _spent(runs, arm)
        rows = [[k, *estimated([_vote(runs, run, k) for run in runs.of(arm).values()])] for k in KS]
        base = pd.DataFrame(rows, columns=["step", "n", "value", "low", "high"])
        for axis, per_answer in zip(column, (1.0, flops["sampled an answer"]), strict=True):
            curve(axis, base.assign(step=base["step"] * per_answer), BASE, CYCLE[0])
        for i, (metric, label) in enumerate(TRAINING.items(), start=1):
            table = runs.curve(arm, metric)
            for axis, a_step in zip(column, (answers, flops["a step"]), strict=True):
                curve(axis, table.assign(step=table["step"] * a_step), label, CYCLE[i])
            steps = table["step"]
            parts.append(table.assign(arm=arm, series=label, answers=steps * answers, flops=steps * flops["a step"]))
        spent = base["step"] * flops["sampled an answer"]
        parts.append(base.assign(arm=arm, series=BASE, answers=base["step"], flops=spent))
        for axis, title in zip(column, ("answers sampled a question", "FLOPs a parameter and question"), strict=True):
            axis.set_xscale("log", base=2)
            axis.set(title=f"{config.model}, {config.task}", xlabel=title)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    below(axes[1, 1], 3)
    return figure, pd.concat(parts, ignore_index=True).drop(columns="step")


def _spent(runs: Runs, arm: str) -> tuple[float, dict[str, float]]:
    """Answers a step and question, and FLOPs a parameter and question: an answer sampled, and a step (mean lengths)."""
    rollout = runs.config(arm).rollout
    tokens = runs.mean(arm, "mean_tokens", at="mean") if _has_lengths(runs, arm) else runs.mean(arm, "base_tokens")
    step = tokens * (SAMPLED * rollout.votes + TRAINED * rollout.trained)
    return float(rollout.votes), {"sampled an answer": SAMPLED * tokens, "a step": step}


def _has_lengths(runs: Runs, arm: str) -> bool:
    return all(runs.measurements.metric(run["run"], "mean_tokens") for run in runs.of(arm).values())


def _vote(runs: Runs, run: Mapping[str, Any], k: int) -> float:
    codes_QN = runs.measurements.samples(run["run"])[run["trained_task"], "train", 0, 1.0].codes_QN
    return maj_at_k(codes_QN, min(k, codes_QN.shape[1]))


if __name__ == "__main__":
    script(NAME, ARMS, draw)
