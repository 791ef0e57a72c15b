"""Label accuracy against pass@1 over training: the paper's figure 9 beside its figure 12."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.load import Study, rows_of
from analysis.paper import curve as paper_curve
from analysis.style import COLOURS
from ttrl_repro.errors import UserError
from ttrl_repro.stats import ANSWERS, answers_interval, avg_at_k, maj_at_k, replicates_interval
from ttrl_repro.summary import codes_by_protocol

MANY = 5  # replicates from which on their interval says more than their lines
COLUMNS = ["source", "cell", "run", "series", "step", "value", "low", "high", "population"]

# Series drawn from metrics.jsonl, with their colours; the paper's curves share them.
TRAINING = {
    "label_accuracy": COLOURS["blue"],
    "reward_accuracy": COLOURS["green"],
    "advantage_accuracy": COLOURS["purple"],
    "majority_ratio": COLOURS["orange"],
}
PAPER = {
    "label_accuracy": "fig9_label_accuracy",
    "reward_accuracy": "fig9_reward_accuracy",
    "majority_ratio": "fig9_majority_ratio",
    "greedy": "fig12a_accuracy",
    "entropy": "fig12b_entropy",
}


def training_curves(study: Study, cell: str) -> pd.DataFrame:
    """The curves of one cell: a row per run, series and step, and their mean over replicates.

    Series: metrics of training; `greedy` and `avg@k` on the trained set and, as `fresh avg@k`, on its
    fresh twin; `first maj@n` (step 0). Intervals: ANSWERS for a single run's avg@k, the t interval over
    replicates for a mean of at least 2 runs (population `replicates`), none elsewhere. The mean ends where the
    first run does: what goes on after others have stopped early is a choice of runs.
    """
    runs = study.runs[(study.runs["cell"] == cell) & (study.runs["state"] == "finished")]
    if runs.empty:
        raise UserError(f"no finished run of cell {cell}")
    rows: list[dict[str, object]] = []
    for run in rows_of(runs):
        name, k = run["run"], run["k"]
        metrics = study.metrics[study.metrics["run"] == name]
        for series in (*TRAINING, "entropy"):
            for row in rows_of(metrics[metrics["metric"] == series]):
                rows.append(_row(cell, name, series, row["step"], row["value"]))
        answers = study.answers[(study.answers["run"] == name) & (study.answers["task"] == run["trained_task"])]
        for (_, split, step, t), codes_QN in codes_by_protocol(rows_of(answers)).items():
            prefix = "" if split == "train" else f"{split} "
            if t == 0:
                rows.append(_row(cell, name, f"{prefix}greedy", step, avg_at_k(codes_QN)))
            elif t == run["temperature"]:
                found = answers_interval(avg_at_k, codes_QN[:, :k])
                rows.append(_row(cell, name, f"{prefix}avg@{k}", step, found.value, found.low, found.high, ANSWERS))
                if step == 0:
                    first = f"{prefix}first maj@{codes_QN.shape[1]}"
                    rows.append(_row(cell, name, first, step, maj_at_k(codes_QN)))
    table = pd.DataFrame(rows, columns=COLUMNS)
    shared = table[table["step"] <= runs["steps_done"].min()]
    return pd.concat([table, _means(shared, cell)], ignore_index=True) if len(runs) > 1 else table


def _row(
    cell: str,
    run: str,
    series: str,
    step: int,
    value: float,
    low: float = np.nan,
    high: float = np.nan,
    population: str = "",
) -> dict[str, object]:
    return dict(zip(COLUMNS, ["ours", cell, run, series, step, value, low, high, population], strict=True))


def _means(table: pd.DataFrame, cell: str) -> pd.DataFrame:
    rows = []
    for series, step in table[["series", "step"]].drop_duplicates().itertuples(index=False):
        values = table[(table["series"] == series) & (table["step"] == step)]["value"].to_numpy()
        found = replicates_interval(values)
        rows.append(_row(cell, "mean", series, step, found.value, found.low, found.high, found.population or ""))
    return pd.DataFrame(rows, columns=COLUMNS)


def paper_curves() -> pd.DataFrame:
    """The paper's own curves (arXiv 2504.16084v3, figures 9 and 12), in the same columns."""
    parts = []
    for series, name in PAPER.items():
        curve = paper_curve(name)
        parts.append(
            pd.DataFrame(
                {
                    "source": "paper",
                    "run": "Qwen2.5-Math-7B, AIME 2024",
                    "series": series,
                    "step": curve["step"],
                    "value": curve["value"],
                },
                columns=COLUMNS,
            )
        )
    return pd.concat(parts, ignore_index=True)


def draw(ours: pd.DataFrame, paper: pd.DataFrame, title: str) -> Figure:
    """Two rows (ours, the paper's) of three panels: the vote, label accuracy against pass@1, entropy."""
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 5.8))
    _draw_row(axes[0], ours, title)
    _draw_row(axes[1], paper, "the paper: Qwen2.5-Math-7B, AIME 2024")
    for row in axes:
        for axis, label in zip(row, ("share", "accuracy", "entropy (nats per token)"), strict=True):
            axis.set_xlabel("step")
            axis.set_ylabel(label)
        row[0].set_ylim(0, 1)
    return figure


def _draw_row(axes: np.ndarray, table: pd.DataFrame, title: str) -> None:
    vote, accuracy, entropy = axes
    for series, colour in TRAINING.items():
        _line(vote, table, series, colour)
    vote.set_title(f"{title}\nthe vote (figure 9)", loc="left")
    pass1 = [s for s in table["series"].unique() if "avg@" in s or "greedy" in s or "first maj@" in s]
    styles = {
        "greedy": (COLOURS["black"], ":"),
        "avg": (COLOURS["red"], "-"),
        "fresh avg": (COLOURS["purple"], "--"),
    }
    _line(accuracy, table, "label_accuracy", COLOURS["blue"])
    for series in pass1:
        kind = series.partition("@")[0]
        if kind in styles:
            colour, dash = styles[kind]
            _line(accuracy, table, series, colour, dash)
        elif kind == "first maj":
            level = table[table["series"] == series]["value"].mean()
            accuracy.axhline(level, color=COLOURS["sky"], linestyle="--", linewidth=1, label=series)
    accuracy.set_title("label accuracy against pass@1 (figure 12)", loc="left")
    _line(entropy, table, "entropy", COLOURS["green"])
    entropy.set_title("entropy (figure 12)", loc="left")
    for axis in (vote, accuracy):
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=2, handlelength=1.6, columnspacing=1)


def _line(axis: Axes, table: pd.DataFrame, series: str, colour: str, dash: str = "-") -> None:
    """One series: a single run with its interval; or the mean, over every run thin or (MANY runs) its interval."""
    rows = table[table["series"] == series].sort_values("step")
    if rows.empty:
        return
    runs = [name for name in rows["run"].unique() if name != "mean"]
    thick = rows[rows["run"] == ("mean" if len(runs) > 1 else runs[0])]
    axis.plot(thick["step"], thick["value"], dash, color=colour, label=series.replace("_", " "))
    if 1 < len(runs) < MANY:
        for name in runs:
            one = rows[rows["run"] == name]
            axis.plot(one["step"], one["value"], dash, color=colour, linewidth=0.5, alpha=0.5)
    elif thick["low"].notna().any():
        axis.fill_between(thick["step"], thick["low"], thick["high"], color=colour, alpha=0.15, linewidth=0)
