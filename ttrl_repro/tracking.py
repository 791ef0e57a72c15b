"""The W&B mirror of a record. The record is written first; W&B gets what the record got."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ttrl_repro.config import Experiment
from ttrl_repro.errors import UserError
from ttrl_repro.records import Row

SWEEP = "TTRL_SWEEP"  # environment variable: the sweep that a run belongs to, as JSON
MODES = ("offline", "online", "disabled", "shared", "dryrun", "run")


def wandb_mode() -> str:
    """WANDB_MODE, or `offline`. Raises UserError for a mode that W&B does not know."""
    mode = os.environ.get("WANDB_MODE", "offline")
    if mode not in MODES:
        raise UserError(f"WANDB_MODE: unknown mode {mode!r}; known: {', '.join(MODES)}")
    return mode


def sweep_of_environment() -> dict[str, Any] | None:
    """The sweep that started this process, or None: `name`, `cell`, `parameters` of ours, or `wandb`, W&B's id."""
    ours = os.environ.get(SWEEP)
    if ours:
        return dict(json.loads(ours))
    wandbs = os.environ.get("WANDB_SWEEP_ID")
    return {"wandb": wandbs} if wandbs else None


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
            tags=[tag[:64] for tag in (manifest["task"]["name"], experiment.reward.name, experiment.algorithm.name)],
            config={**experiment.model_dump(mode="json"), "manifest": dict(manifest)},
            dir=folder,
            mode=mode,
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True, save_code=False),
        )

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Metrics of one step; absent ones (None) are left out."""
        if self._run is not None:
            self._run.log({key: value for key, value in values.items() if value is not None}, step=step)

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


def _run_id(manifest: Mapping[str, Any]) -> str:
    """W&B's id of the run: kept over a resume, different for every record, and of characters W&B takes."""
    stamp = re.sub(r"\D", "", manifest["created"])
    name = re.sub(r"[^A-Za-z0-9_-]", "-", manifest["run_id"])
    return f"{name[:40]}-{stamp}"
