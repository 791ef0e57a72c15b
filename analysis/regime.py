"""What runs do to their own first vote: the laboratory's table of oracle labels and of mixes, a row per cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.claims import Measure, Quantity, Values
from analysis.load import Study, rows_of
from ttrl_repro.errors import UserError
from ttrl_repro.stats import replicates_interval

MEASURES: dict[str, Measure] = {
    "base greedy": "base_greedy",
    "base avg": "base_avg",
    "first maj, best T": "base_best_maj",
    "first label accuracy": "first_label_accuracy",
    "last label accuracy": "last_label_accuracy",
    "trained avg": "avg",
}
DIFFERENCES = {
    "trained avg - first maj": ("trained avg", "first maj, best T"),
    "last - first label accuracy": ("last label accuracy", "first label accuracy"),
}


def regime_runs(study: Study) -> pd.DataFrame:
    """A row per finished run: run, name, model, task, cell, replicate, and MEASURES and DIFFERENCES on its train set.

    Raises UserError if there is none, or as `Values.of`.
    """
    values = Values(study, study.runs["name"])
    rows = []
    for run in values.runs:
        found = {
            title: values.of(run, Quantity(arm=run["name"], measure=measure)) for title, measure in MEASURES.items()
        }
        found |= {title: found[left] - found[right] for title, (left, right) in DIFFERENCES.items()}
        replicate = f"b{run['seed_base']}-d{run['seed_draw']}-r{run['seed_rl']}"
        facts = {
            "run": run["run"],
            "name": run["name"],
            "model": run["model"],
            "task": run["trained_task"],
            "cell": run["cell"],
        }
        rows.append({**facts, "replicate": replicate, **found})
    if not rows:
        raise UserError("no finished run")
    return pd.DataFrame(rows)


def regime_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per cell and measure: name, model, task, n, measure, mean, low, high (95 % t interval over replicates)."""
    rows = []
    for _, group in runs.groupby("cell", sort=False):
        first = group.iloc[0]
        for measure in (*MEASURES, *DIFFERENCES):
            found = replicates_interval(group[measure].to_numpy())
            low, high = (found.low, found.high) if len(group) > 1 else (np.nan, np.nan)
            rows.append([first["name"], first["model"], first["task"], len(group), measure, found.value, low, high])
    return pd.DataFrame(rows, columns=["name", "model", "task", "n", "measure", "mean", "low", "high"])


def markdown(table: pd.DataFrame, measures: Sequence[str] = (*MEASURES, *DIFFERENCES)) -> str:
    """A row per cell, a column per measure, intervals where there are replicates."""
    lines = ["| runs | base | task | n | " + " | ".join(measures) + " |", "|---" * (4 + len(measures)) + "|"]
    for (name, model, task), group in table.groupby(["name", "model", "task"], sort=False):
        cells: list[str] = []
        for row in rows_of(group.set_index("measure").loc[list(measures)]):
            sign = "+" if " - " in measures[len(cells)] else ""
            interval = "" if np.isnan(row["low"]) else f" [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"
            cells.append(f"{row['mean']:{sign}.3f}{interval}")
        lines.append(f"| {name} | {model} | {task} | {group['n'].iloc[0]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
