"""Run records -> tidy tables.

`runs`: one row per record: `run` (its folder's path from the loaded one), `cell` (config hash; replicates share it),
seeds, state, task, model, `weights` (hash of a miniature base's files; None for others and in older records), reward,
steps, `protocol` (how answers are evaluated, as a text: only runs with the same one compare) and `commit` (of the code;
None of an installed package). `metrics`: run, step, metric, value. `votes` and `answers`: the records' votes.parquet
and eval rows, with `run` in front. `configs`: every run's resolved config.
`left_out`: damaged records that were skipped, `foreign`: runs not of the frozen laboratory; each with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    left_out: Mapping[str, str] = field(default_factory=dict)
    foreign: Mapping[str, str] = field(default_factory=dict)


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


def load(folder: str | Path, frozen: bool = False, skip_damaged: bool = False) -> Study:
    """All records in `folder`: itself a record, or a folder of records, up to two folders (cells, arms) deeper.

    In order of their paths. frozen: accept only records of the frozen laboratory (`ttrl_repro.laboratory`). Raises
    UserError if there is none, if one is foreign to it, if two are the same replicate of a cell (they would be averaged
    as if they were independent), and for a damaged one, naming it: another schema, an edited config, a line of metrics
    that is cut off, a metric that is no finite number, a step twice, a missing or unreadable parquet of a finished run.
    skip_damaged: leave damaged ones out instead; `Study.left_out` names them with the reason.
    """
    root = Path(folder)
    if (root / "manifest.json").is_file():
        found = {root.name: root}
    else:
        paths = [path.parent for depth in ("*", "*/*", "*/*/*") for path in root.glob(f"{depth}/manifest.json")]
        # A sweep's unfinished attempts are not runs of it yet.
        found = {
            name: path
            for path in sorted(paths)
            if "attempts" not in (name := path.relative_to(root).as_posix()).split("/")
        }
    if not found:
        raise UserError(f"{root}: no run records here")
    freeze = laboratory.read()
    parts: list[_Parts] = []
    left_out: dict[str, str] = {}
    for run, path in found.items():
        try:
            part = _read(run, path, freeze)
        except UserError as error:
            if not skip_damaged:
                raise
            left_out[run] = str(error)
            continue
        if frozen and part.foreign:
            raise UserError(f"{path}: not a record of the frozen laboratory: {part.foreign}")
        parts.append(part)
    if not parts:
        raise UserError(f"{root}: every record here is damaged, as {next(iter(left_out.values()))}")
    table = pd.DataFrame([part.row for part in parts])
    _refuse_twins(root, table)
    votes = [part.votes for part in parts if part.votes is not None]
    return Study(
        table,
        pd.DataFrame([row for part in parts for row in part.metrics], columns=["run", "step", "metric", "value"]),
        pd.concat(votes, ignore_index=True) if votes else pd.DataFrame(),
        pd.concat([part.answers for part in parts], ignore_index=True),
        {part.row["run"]: part.config for part in parts},
        left_out,
        {part.row["run"]: part.foreign for part in parts if part.foreign},
    )


@dataclass(frozen=True)
class _Parts:
    """What a record gives to the tables; foreign: why it is not of the frozen laboratory, None if it is."""

    row: dict[str, Any]
    metrics: list[dict[str, Any]]
    votes: pd.DataFrame | None
    answers: pd.DataFrame
    config: Experiment
    foreign: str | None


def _read(run: str, path: Path, freeze: laboratory.Frozen) -> _Parts:
    """Read a record. Raises UserError if it is damaged."""
    record = Record.reopen(path)
    experiment, manifest = record.experiment(), record.manifest
    finished = manifest["state"] == "finished"
    row = {
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
        "reward": reward_label(experiment),
        "algorithm": experiment.algorithm.name,
        "learning_rate": experiment.train.learning_rate,
        "steps_done": manifest["steps_done"],
        "k": experiment.evaluate.k,
        "temperature": experiment.evaluate.temperature,
        "protocol": protocol(experiment.evaluate),
        "commit": (manifest.get("git") or {}).get("commit"),
    }
    # One that is being written may end in half a line.
    lines = read_jsonl(path / "metrics.jsonl", complete=not finished)
    evaluations = sorted((path / "eval").glob("step-*.parquet"))
    if finished:
        _refuse_incomplete(path, manifest, experiment, lines, evaluations)
    answers = pa.concat_tables([_table(part, EVAL) for part in evaluations] or [EVAL.empty_table()])
    votes = _table(path / "votes.parquet") if (path / "votes.parquet").is_file() else None
    tasks = (experiment.task, *experiment.evaluate.tasks)
    return _Parts(
        row,
        _metrics(run, path, lines),
        None if votes is None else votes.to_pandas().assign(run=run),
        answers.to_pandas().assign(run=run),
        experiment,
        laboratory.refusal(manifest, tasks, freeze),
    )


def _metrics(run: str, path: Path, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rows, seen = [], set[int]()
    for number, line in enumerate(lines, start=1):
        step = line.pop("step", None)
        if step is None or step in seen:
            what = "has no step" if step is None else f"step {step} was there before"
            raise UserError(f"{path / 'metrics.jsonl'}, line {number}: {what}")
        seen.add(step)
        for name, value in line.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(f"{path / 'metrics.jsonl'}, line {number}: {name} is {value!r}, not a finite number")
            rows.append({"run": run, "step": step, "metric": name, "value": value})
    return rows


def _refuse_incomplete(
    path: Path,
    manifest: Mapping[str, Any],
    experiment: Experiment,
    lines: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Path],
) -> None:
    """Raise UserError if a finished run that sampled lacks steps of its metrics, its votes, or an evaluation."""
    if not manifest["cost"]["tokens_sampled"]:
        return
    done, every = manifest["steps_done"], experiment.evaluate.every
    absent = set(range(1, done + 1)) - {line.get("step") for line in lines}
    if absent:
        raise UserError(f"{path / 'metrics.jsonl'}: no line of step {min(absent)}, though the run is finished")
    needed = [path / "eval" / f"step-{step:06d}.parquet" for step in sorted({0, *range(every, done + 1, every), done})]
    missing = [part for part in needed if part not in evaluations]
    missing += [path / "votes.parquet"] * (not (path / "votes.parquet").is_file())
    if missing:
        raise UserError(f"{missing[0]}: missing, though the run is finished")


def _table(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    try:
        return pq.read_table(path, schema=schema)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error


def _refuse_twins(root: Path, table: pd.DataFrame) -> None:
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


def reward_label(experiment: Experiment) -> str:
    """The reward, and the questions that it is given on, if not all."""
    only = experiment.train.only
    return experiment.reward.label() + (f", {only}" if only != "all" else "")


def protocol(evaluate: Evaluate) -> str:
    """How answers are evaluated, as a text: only runs with the same one compare."""
    base = "/".join(f"{t:g}" for t in evaluate.base_temperatures)
    return f"avg@{evaluate.k}, {evaluate.votes} votes, T={evaluate.temperature:g} of {base}, top-p {evaluate.top_p:g}"
