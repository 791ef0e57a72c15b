"""The W&B mirror of a record. The record is written first; W&B gets what the record got."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from ttrl_repro.config import Experiment
from ttrl_repro.errors import UserError
from ttrl_repro.records import Record, Row, read_eval, read_jsonl
from ttrl_repro.summary import codes_by_protocol, headline

SWEEP = "TTRL_SWEEP"  # environment variable: the sweep that a run belongs to, as JSON
WANDB_SWEEP = "WANDB_SWEEP_ID"  # environment variable that W&B's agent sets
WANDB_SERVICE = "WANDB_SERVICE"  # environment variable by which W&B shares one service with a process's children
MODES = ("offline", "online", "disabled", "shared", "dryrun", "run")


def wandb_mode() -> str:
    """WANDB_MODE, or `online` under W&B's own agent, whose server decides by what it hears, else `offline`.

    Raises UserError for a mode that W&B does not know.
    """
    mode = os.environ.get("WANDB_MODE", "online" if WANDB_SWEEP in os.environ else "offline")
    if mode not in MODES:
        raise UserError(f"WANDB_MODE: unknown mode {mode!r}; known: {', '.join(MODES)}")
    return mode


def sweep_of_environment() -> dict[str, Any] | None:
    """The sweep that started this process, or None: `name`, `cell` and `parameters` of ours; `wandb`, its id, of W&B's,
    and `parameters`, the overrides that its agent gave to this command.
    """
    ours = os.environ.get(SWEEP)
    if ours:
        return dict(json.loads(ours))
    wandbs = os.environ.get(WANDB_SWEEP)
    if not wandbs:
        return None
    overrides = [part.partition("=") for part in sys.argv[1:] if re.match(r"[A-Za-z_][\w.]*=", part)]
    return {"wandb": wandbs, "parameters": {name: yaml.safe_load(value) for name, _, value in overrides}}


class Mirror:
    """A W&B run beside the record; offline unless WANDB_MODE says otherwise, so no login is asked for.

    W&B's group is the config hash: the replicates of a cell.
    """

    def __init__(self, experiment: Experiment, folder: Path, manifest: Mapping[str, Any]) -> None:
        self._run: Any = None
        self._samples = experiment.tracking.samples
        mode = wandb_mode()
        if not experiment.tracking.wandb or mode == "disabled":
            return
        import wandb

        try:
            self._run = self._start(wandb, experiment, folder, manifest, mode)
        except wandb.errors.Error as error:
            raise UserError(
                f"W&B cannot start in mode {mode!r} ({' '.join(str(error).split())}); the run is recorded all the "
                f"same: go on with WANDB_MODE=offline ttrl resume {folder}"
            ) from error

    @staticmethod
    def _start(wandb: Any, experiment: Experiment, folder: Path, manifest: Mapping[str, Any], mode: str) -> Any:
        return wandb.init(
            project=experiment.tracking.project,
            entity=experiment.tracking.entity,
            name=manifest["run_id"],
            id=_run_id(manifest),
            resume="allow",
            group=manifest["config_hash"],
            job_type="train",
            tags=_tags(experiment, manifest),
            config={**experiment.model_dump(mode="json"), "manifest": dict(manifest)},
            dir=folder,
            mode=mode,
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True, save_code=False),
        )

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Metrics of one step; absent ones (None) are left out."""
        if self._run is not None:
            self._run.log({key: value for key, value in values.items() if value is not None}, step=step)

    def log_again(self, record: Record) -> None:
        """Offline: log what a resumed record has, up to where it goes on, without sampled texts.

        W&B's file of a killed run lacks what it had not written yet; so the last one holds the whole run. Online, W&B
        takes no earlier step.
        """
        if self._run is None or not self._run.offline:
            return
        values: defaultdict[int, dict[str, float | None]] = defaultdict(dict)
        for prefix, name in (("", "metrics.jsonl"), ("time/", "timings.jsonl")):
            for row in read_jsonl(record.folder / name):
                values[row["step"]] |= {f"{prefix}{key}": value for key, value in row.items() if key != "step"}
        k = record.experiment().evaluate.k
        for step, rows in groupby(read_eval(record.folder), key=lambda row: row["step"]):  # they come in its order
            values[step] |= headline(codes_by_protocol(rows), k)
        for step in sorted(values):
            self.log(step, values[step])

    def log_samples(self, step: int, rows: Sequence[Row]) -> None:
        """A table of sampled texts, if the config allows texts on W&B."""
        if self._run is None or not self._samples or not rows:
            return
        import wandb

        columns = list(rows[0])
        table = wandb.Table(columns=columns, data=[[row[column] for column in columns] for row in rows])
        self._run.log({"samples": table}, step=step)

    def close(self, state: str) -> None:
        """End the W&B run; anything but `finished` is marked as failed there."""
        if self._run is not None:
            self._run.summary["state"] = state
            self._run.finish(exit_code=0 if state == "finished" else 1)


def _tags(experiment: Experiment, manifest: Mapping[str, Any]) -> list[str]:
    """Task, reward, algorithm, and the commit where there is one; at most 64 characters each, as W&B has it."""
    tags = [manifest["task"]["name"], experiment.reward.name, experiment.algorithm.name]
    if manifest["git"]:
        tags += [manifest["git"]["commit"][:12], *(["dirty"] if manifest["git"]["dirty"] else [])]
    return [tag[:64] for tag in tags]


def _run_id(manifest: Mapping[str, Any]) -> str:
    """W&B's id of the run: kept over a resume, different for every record, and of characters W&B takes."""
    stamp = re.sub(r"\D", "", manifest["created"])
    name = re.sub(r"[^A-Za-z0-9_-]", "-", manifest["run_id"])
    return f"{name[:40]}-{stamp}"
