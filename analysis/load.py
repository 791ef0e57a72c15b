"""Run records -> tidy tables.

`runs`: one row per record: `run` (its folder's path from the loaded one), `cell` (config hash; replicates share it),
seeds, state, task, model, `weights` (hash of a miniature base's files; None for others and in older records), reward,
steps, `protocol` (how answers are evaluated, as a text: only runs with the same one compare) and `commit` (of the code;
None of an installed package). `metrics`: run, step, metric, value. `votes` and `answers`: the records' votes.parquet
and eval rows, with `run` in front. `configs`: every run's resolved config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ttrl_repro import laboratory
from ttrl_repro.config import Evaluate, Experiment
from ttrl_repro.errors import UserError
from ttrl_repro.records import EVAL, Record, read_jsonl


@dataclass(frozen=True)
class Study:
    """The tables of a set of runs (see the module's docstring)."""

    runs: pd.DataFrame
    metrics: pd.DataFrame
    votes: pd.DataFrame
    answers: pd.DataFrame
    configs: Mapping[str, Experiment] = field(default_factory=dict)


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


def load(folder: str | Path, frozen: bool = False) -> Study:
    """All records in `folder`: itself a record, or a folder of records, up to two folders (cells, arms) deeper.

    In order of their paths. frozen: accept only records of the frozen laboratory (`ttrl_repro.laboratory`).
    Raises UserError if there is none, if one is damaged or (with `frozen`) foreign, or if two are the same replicate of
    a cell: such runs would be averaged as if they were independent.
    """
    root = Path(folder)
    if (root / "manifest.json").is_file():
        found = {root.name: root}
    else:
        paths = [path.parent for depth in ("*", "*/*", "*/*/*") for path in root.glob(f"{depth}/manifest.json")]
        found = {path.relative_to(root).as_posix(): path for path in sorted(paths)}
    if not found:
        raise UserError(f"{root}: no run records here")
    freeze = laboratory.read() if frozen else None
    runs: list[dict[str, Any]] = []
    metrics: list[dict[str, Any]] = []
    votes, answers = [], []
    configs: dict[str, Experiment] = {}
    for run, path in found.items():
        record = Record.reopen(path)
        experiment, manifest = record.experiment(), record.manifest
        configs[run] = experiment
        if freeze is not None:
            refusal = laboratory.refusal(manifest, (experiment.task, *experiment.evaluate.tasks), freeze)
            if refusal:
                raise UserError(f"{path}: not a record of the frozen laboratory: {refusal}")
        runs.append(
            {
                "run": run,
                "cell": manifest["config_hash"],
                **{f"seed_{name}": value for name, value in manifest["seeds"].items()},
                "state": manifest["state"],
                "name": experiment.name,
                "task": experiment.task,
                "trained_task": manifest["task"]["name"],
                "questions": manifest["task"]["fingerprint"],
                "model": experiment.model,
                "weights": manifest["model"].get("weights"),
                "reward": experiment.reward.label() + (f", {only}" if (only := experiment.train.only) != "all" else ""),
                "algorithm": experiment.algorithm.name,
                "learning_rate": experiment.train.learning_rate,
                "steps_done": manifest["steps_done"],
                "k": experiment.evaluate.k,
                "temperature": experiment.evaluate.temperature,
                "protocol": _protocol(experiment.evaluate),
                "commit": (manifest.get("git") or {}).get("commit"),
            }
        )
        for row in read_jsonl(path / "metrics.jsonl"):
            step = row.pop("step")
            metrics += [{"run": run, "step": step, "metric": name, "value": v} for name, v in row.items()]
        if (path / "votes.parquet").is_file():
            votes.append(pq.read_table(path / "votes.parquet").to_pandas().assign(run=run))
        parts = [pq.read_table(part, schema=EVAL) for part in sorted((path / "eval").glob("step-*.parquet"))]
        answers.append(pa.concat_tables(parts or [EVAL.empty_table()]).to_pandas().assign(run=run))
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
        configs,
    )


def _protocol(evaluate: Evaluate) -> str:
    base = "/".join(f"{t:g}" for t in evaluate.base_temperatures)
    return f"avg@{evaluate.k}, {evaluate.votes} votes, T={evaluate.temperature:g} of {base}, top-p {evaluate.top_p:g}"
