"""Run records -> tidy tables.

`runs`: one row per record: `run` (its folder's name), `cell` (config hash; replicates share it), seeds,
state, task, model, reward, steps. `metrics`: run, step, metric, value. `votes` and `answers`: the
records' votes.parquet and eval rows, with `run` in front.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from ttrl_repro.errors import UserError
from ttrl_repro.records import Record, read_eval, read_jsonl


@dataclass(frozen=True)
class Study:
    """The tables of a set of runs (see the module's docstring)."""

    runs: pd.DataFrame
    metrics: pd.DataFrame
    votes: pd.DataFrame
    answers: pd.DataFrame


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows as the record's own readers give them."""
    # pandas keeps what is missing in a column of texts (an abstention's key) as NaN, which is not None.
    columns = [
        [None if missing else value for value, missing in zip(table[name].tolist(), table[name].isna(), strict=True)]
        if isinstance(table[name].dtype, pd.StringDtype)
        else table[name].tolist()
        for name in table.columns
    ]
    names = [str(name) for name in table.columns]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def load(folder: str | Path) -> Study:
    """All records in `folder` (itself a record, or a folder of records), in order of their names.

    Raises UserError if there is none, if one is damaged, or if two are the same replicate of a cell:
    such runs would be averaged as if they were independent.
    """
    root = Path(folder)
    found = [root] if (root / "manifest.json").is_file() else sorted(p.parent for p in root.glob("*/manifest.json"))
    if not found:
        raise UserError(f"{root}: no run records here")
    runs: list[dict[str, Any]] = []
    metrics: list[dict[str, Any]] = []
    votes, answers = [], []
    for path in found:
        record = Record.reopen(path)
        experiment, manifest = record.experiment(), record.manifest
        runs.append(
            {
                "run": path.name,
                "cell": manifest["config_hash"],
                **{f"seed_{name}": value for name, value in manifest["seeds"].items()},
                "state": manifest["state"],
                "name": experiment.name,
                "task": experiment.task,
                "trained_task": manifest["task"]["name"],
                "questions": manifest["task"]["fingerprint"],
                "model": experiment.model,
                "reward": experiment.reward.label() + (f", {only}" if (only := experiment.train.only) != "all" else ""),
                "algorithm": experiment.algorithm.name,
                "learning_rate": experiment.train.learning_rate,
                "steps_done": manifest["steps_done"],
                "k": experiment.evaluate.k,
                "temperature": experiment.evaluate.temperature,
            }
        )
        for row in read_jsonl(path / "metrics.jsonl"):
            step = row.pop("step")
            metrics += [{"run": path.name, "step": step, "metric": name, "value": v} for name, v in row.items()]
        if (path / "votes.parquet").is_file():
            votes.append(pq.read_table(path / "votes.parquet").to_pandas().assign(run=path.name))
        answers.append(pd.DataFrame(read_eval(path)).assign(run=path.name))
    table = pd.DataFrame(runs)
    replicate = ["cell", "seed_base", "seed_draw", "seed_rl"]
    twins = table[table.duplicated(replicate, keep=False)]
    if len(twins):
        raise UserError(f"{root}: the same replicate of one cell twice: {', '.join(twins['run'])}")
    for (cell, draw), group in table.groupby(["cell", "seed_draw"]):
        if group["questions"].nunique() > 1:
            raise UserError(
                f"{root}: runs of cell {cell}, draw {draw} were given different questions under one name: "
                f"{', '.join(group['run'])}"
            )
    return Study(
        table,
        pd.DataFrame(metrics, columns=["run", "step", "metric", "value"]),
        pd.concat(votes, ignore_index=True) if votes else pd.DataFrame(),
        pd.concat(answers, ignore_index=True),
    )
