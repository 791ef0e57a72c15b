"""Matched compute: TTRL against a vote that may spend as many answers, by tokens and by FLOPs."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.plots import CYCLE, below, curve, level
from ttrl_repro.stats import maj_at_k, replicates_interval

NAME = "matched_compute"
ARMS = ("xs-30", "s-30", "m-30")
TRAINING = {"ground_truth_ratio": "TTRL: average", "label_accuracy": "TTRL: vote"}
KS = (1, 2, 4, 8, 16, 32, 64)


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """The base's maj@k at the rollout's temperature, and the average and the vote in training, by answers sampled.

    A vote levels off: what it could reach with all of TTRL's samples is drawn as the level of its last points, the vote
    over the base's 64 samples.
    """
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.3), sharey=True)
    parts = []
    for axis, arm in zip(axes, ARMS, strict=True):
        experiment = runs.arms[arm]
        votes = []
        for k in KS:
            found = [_vote(runs, run, k) for run in runs.of(arm).values()]
            estimate = replicates_interval(np.array(found))
            votes.append([k, len(found), estimate.value, estimate.low, estimate.high])
        base = pd.DataFrame(votes, columns=["step", "n", "value", "low", "high"])
        curve(axis, base, "base's vote over k answers", CYCLE[0])
        for i, (metric, label) in enumerate(TRAINING.items()):
            table = runs.curve(arm, metric)
            table = table.assign(step=table["step"] * experiment.rollout.votes)
            curve(axis, table, label, CYCLE[i + 1])
            parts.append(table.assign(arm=arm, series=label))
        level(axis, float(base["value"].iloc[-1]), "base's vote over 64")
        parts.append(base.assign(arm=arm, series="base's vote"))
        axis.set_xscale("log", base=2)
        axis.set(title=f"{experiment.model}, {experiment.task}", xlabel="answers sampled a question")
    axes[0].set_ylabel("accuracy")
    below(axes[1], 2)
    return figure, pd.concat(parts, ignore_index=True).rename(columns={"step": "answers"})


def _vote(runs: Runs, run: dict[str, object], k: int) -> float:
    samples = runs.measurements.samples(str(run["run"]))
    codes_QN = samples[str(run["trained_task"]), "train", 0, 1.0].codes_QN
    return maj_at_k(codes_QN, min(k, codes_QN.shape[1]))


if __name__ == "__main__":
    script(NAME, ARMS, draw)
