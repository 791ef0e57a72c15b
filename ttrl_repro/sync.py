"""`ttrl sync`: upload what finished runs logged offline, and check that W&B has what the record has.

Before the upload W&B's own file of the run (`.wandb`, read by `wandb leet inspect`) is compared with the record, step
by step and value by value; after it, the steps that the server has are counted, in its full history, no sample of it.
Imports no torch.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ttrl_repro.errors import UserError, one_line
from ttrl_repro.records import Record, read_jsonl, write_atomic

CHECKED = "checked.json"  # in a record's wandb folder: the offline runs that were uploaded and counted
History = dict[int, dict[str, Any]]


class Server(Protocol):
    """What `sync` needs of W&B."""

    def upload(self, folder: Path, entity: str | None) -> str:
        """Upload a folder of an offline run; entity None: the user's own. Returns its full path. Raises UserError."""

    def steps(self, run: str) -> int:
        """How many steps the server has of the run. Raises UserError."""


@dataclass(frozen=True)
class Logged:
    """What the offline files of a run hold: W&B's path of it without the entity, and metrics by step."""

    project: str
    run_id: str
    history: History


def offline_folders(record: Path) -> list[Path]:
    """The W&B folders of a record's offline runs, in order of time: one for each time it was started or resumed."""
    return sorted((record / "wandb").glob("offline-run-*"))


def is_checked(record: Path) -> bool:
    """Whether all offline runs of the record were uploaded, and found complete on the server."""
    path = record / "wandb" / CHECKED
    names = json.loads(path.read_text()) if path.is_file() else []
    return {folder.name for folder in offline_folders(record)} <= set(names)


def read_offline(folders: Sequence[Path]) -> Logged:
    """All that was logged in the offline folders of one run, later ones win. Raises UserError for a broken one."""
    history: History = {}
    project = run_id = ""
    for folder in folders:
        for line in _inspected(folder):
            if line["type"] == "run":
                project, run_id = line["run"].get("project", ""), line["run"].get("run_id", "")
            if line["type"] == "history":
                item = {k: v for k, v in line["history"]["item"].items() if not k.startswith("_")}
                history.setdefault(int(line["history"]["step"].get("num", 0)), {}).update(item)
    if not run_id:
        raise UserError(f"{folders[0]}: holds no W&B run")
    return Logged(project, run_id, history)


def _inspected(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of a .wandb file, as W&B's own reader prints them."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(f"{folder}: W&B cannot read it: {one_line(done.stderr, -1) or 'no reason given'}")
    for line in done.stdout.splitlines():
        yield json.loads(line)


def whole(record: Path) -> list[Path]:
    """The last of a record's offline folders that together hold what the record has.

    Mostly the last alone, since a resumed run logs all again. Raises UserError that says where they differ.
    """
    readable: list[Path] = []
    history: History = {}
    wrong = ["no offline run"]
    for folder in reversed(offline_folders(record)):
        try:
            logged = read_offline([folder])
        except UserError as error:  # of a run that was killed before W&B wrote anything
            if not readable:
                wrong = [str(error)]
            continue
        readable.insert(0, folder)
        steps = logged.history.keys() | history.keys()
        history = {step: logged.history.get(step, {}) | history.get(step, {}) for step in steps}
        wrong = differences(record, replace(logged, history=history))
        if not wrong:
            return readable
    raise UserError(f"{record}: not uploaded: {'; '.join(wrong)}")


def differences(record: Path, logged: Logged) -> list[str]:
    """Where what W&B logged is not what the record has, a line each: steps, and values of metrics.jsonl."""
    rows = {row["step"]: row for row in read_jsonl(record / "metrics.jsonl")}
    expected = expected_steps(record)
    lines = []
    if missing := sorted(expected - logged.history.keys()):
        lines.append(f"W&B lacks steps {_shown(missing)}")
    if more := sorted(logged.history.keys() - expected):
        lines.append(f"W&B has steps {_shown(more)}, which the record has not")
    for step, row in rows.items():
        there = logged.history.get(step, {})
        other = [name for name, value in row.items() if name != "step" and not _same(value, there.get(name))]
        if other and step in logged.history:
            lines.append(f"step {step}: {', '.join(other)} on W&B are not the record's")
    return lines


def expected_steps(record: Path) -> set[int]:
    """The steps that a record logs: those of metrics.jsonl, and those that were evaluated."""
    steps = {row["step"] for row in read_jsonl(record / "metrics.jsonl")}
    return steps | {int(path.stem.removeprefix("step-")) for path in (record / "eval").glob("step-*.parquet")}


def _same(value: float, there: Any) -> bool:
    return isinstance(there, int | float) and math.isclose(value, there, rel_tol=1e-9, abs_tol=1e-12)


def _shown(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps[:5])) + (f" and {len(steps) - 5} more" if len(steps) > 5 else "")


def records_in(folders: Sequence[Path]) -> list[Path]:
    """The finished records in these folders, at any depth, that have offline runs. Raises UserError for no folder."""
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder")
        for path in sorted(folder.rglob("manifest.json")):
            if offline_folders(path.parent) and Record.reopen(path.parent).manifest["state"] == "finished":
                found.append(path.parent)
    return found


def sync(folders: Sequence[Path], server: Server, again: bool = False, say: Callable[[str], None] = print) -> int:
    """Upload every finished record in these folders, checked before and after; returns how many were uploaded.

    again: also those that were uploaded and found complete before. Raises UserError at the end if some were not so.
    """
    uploaded, refused = 0, []
    for record in records_in(folders):
        if not again and is_checked(record):
            say(f"{record}: uploaded before")
            continue
        try:
            said = _upload(record, server)
        except UserError as error:
            refused.append(str(error))
            continue
        say(said)
        uploaded += 1
    if len(refused) > 1:
        for line in refused:
            say(line)
        raise UserError(f"{len(refused)} runs are not on W&B as they should be (above); {uploaded} are")
    if refused:
        raise UserError(refused[0])
    return uploaded


def _upload(record: Path, server: Server) -> str:
    """Upload one record and check it; a line about it. Raises UserError."""
    entity = Record.reopen(record).experiment().tracking.entity
    for folder in whole(record):
        run = server.upload(folder, entity)
    expected, there = len(expected_steps(record)), server.steps(run)
    if there != expected:
        raise UserError(f"{record}: W&B has {there} steps of {run}, the record {expected}")
    write_atomic(record / "wandb" / CHECKED, json.dumps([folder.name for folder in offline_folders(record)]) + "\n")
    return f"{record}: {run}, {there} steps"


class Wandb:
    """W&B's own command and API."""

    def upload(self, folder: Path, entity: str | None) -> str:
        command = [sys.executable, "-m", "wandb", "sync", "--yes", "--include-synced", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "WANDB_MODE": "online"})
        if done.returncode != 0:
            raise UserError(
                f"{folder}: W&B cannot upload it: {one_line(done.stderr + done.stdout, -1) or 'no reason given'}"
            )
        logged = read_offline([folder])
        return f"{entity or self._api().default_entity}/{logged.project}/{logged.run_id}"

    def steps(self, run: str) -> int:
        import wandb

        try:
            # A run that was killed and resumed logs some steps twice.
            return len({row["_step"] for row in self._api().run(run).scan_history(keys=["_step"])})
        except (wandb.errors.CommError, ValueError) as error:
            raise UserError(f"{run}: W&B does not show it ({' '.join(str(error).split())})") from error

    def _api(self) -> Any:
        import wandb

        try:
            return wandb.Api()
        except wandb.errors.Error as error:
            raise UserError(f"W&B: {' '.join(str(error).split())}; log in with `wandb login`") from error
