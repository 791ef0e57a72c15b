"""Figure 10, "lucky hit": rewards under wrong labels, and what training on them does."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import Runs, script
from analysis.plots import below, curve, dots, level, long
from analysis.style import COLOURS

NAME = "fig10_lucky_hit"
METRICS = {
    "wrong_label_reward_accuracy": ("rewards that are right", "blue", "-"),
    "wrong_label_majority_ratio": ("share of the wrong label", "red", "-"),
    "ground_truth_ratio": ("samples that are right (all questions)", "black", ":"),
}
CAUSAL = {
    "all questions": "xs-30",
    "right labels alone": "right-label",
    "wrong labels alone": "wrong-label",
    "true labels": "oracle",
    "labels of other questions": "permuted",
    "random rewards": "random",
}
ARMS = ("s-30", *CAUSAL.values())


def draw(runs: Runs) -> tuple[Figure, pd.DataFrame]:
    """Left: questions with a wrong label, over training. Right: what training on a part gives, mini-xs."""
    figure, (accuracy, gain) = plt.subplots(1, 2, figsize=(7.2, 3.0))
    tables = {}
    for metric, (label, colour, dash) in METRICS.items():
        tables[metric] = table = runs.curve("s-30", metric)
        curve(accuracy, table, label, COLOURS[colour], dash)
    accuracy.set(title="under a wrong label (mini-s, mini-30)", xlabel="step", ylabel="share", ylim=(0, 1))
    below(accuracy, 1)
    table = runs.shared(list(CAUSAL.values())).table([(arm, "net_gain", {}) for arm in CAUSAL.values()])
    dots(gain, table, list(CAUSAL))
    level(gain, 0.0, "no gain", vertical=True)
    gain.set(title="trained on (mini-xs, mini-30)", xlabel="avg@16 minus the base's best, T chosen")
    return figure, pd.concat([long(tables), table.assign(series="net gain")], ignore_index=True)


if __name__ == "__main__":
    script(NAME, ARMS, draw)
