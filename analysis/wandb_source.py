"""Runs from W&B in the tables of `analysis.load`, by its API: the whole history, never its 500-row sample.

W&B is a mirror of the records: it has their metrics and configs, not the votes and answers. So of a project `runs`,
`metrics` and `configs` are filled; what needs answers needs the records. Runs of the authors' own code (verl) are
recognised by their metrics' names and renamed (analysis/verl.py); of these there is no config of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.load import Study
from analysis.verl import metric_name, renamed
from ttrl_repro.config import Experiment
from ttrl_repro.errors import UserError

BESIDE = ("_", "time/", "eval/", "samples")  # prefixes of what our mirror logs beside the record's metrics


def load_wandb(project: str, filters: Mapping[str, Any] | None = None, api: Any = None) -> Study:
    """The runs of a project (`entity/project`), in the order of their creation.

    filters: as W&B's API takes them. api: a `wandb.Api`, made if not given. Raises UserError if the project cannot be
    read or has no runs, or for a run of this package whose config is not valid here.
    """
    if api is None:
        import wandb

        try:
            api = wandb.Api()
        except (wandb.errors.Error, ValueError) as error:
            raise UserError(f"W&B: {' '.join(str(error).split())}; log in first (wandb login)") from error
    try:
        runs = list(api.runs(project, filters=dict(filters or {}), order="+created_at"))
    except ValueError as error:  # what W&B raises for a project that it does not find
        raise UserError(f"W&B project {project}: {' '.join(str(error).split())}") from error
    if not runs:
        raise UserError(f"W&B project {project}: no runs")
    rows, metrics, configs = [], list[dict[str, Any]](), dict[str, Experiment]()
    for run in runs:
        config = dict(run.config)
        history = list(run.scan_history())
        if "manifest" in config:
            experiment, manifest = _experiment(project, run, config), config["manifest"]
            configs[run.name] = experiment
            rows.append(_our_row(run, experiment, manifest))
            metrics += _our_metrics(run.name, history)
        else:
            rows.append({"run": run.name, "cell": run.group or run.id, "name": run.name, "state": run.state})
            metrics += _their_metrics(run.name, history)
    return Study(
        pd.DataFrame(rows),
        pd.DataFrame(metrics, columns=["run", "step", "metric", "value"]),
        pd.DataFrame(),
        pd.DataFrame(),
        configs,
    )


def _experiment(project: str, run: Any, config: Mapping[str, Any]) -> Experiment:
    try:
        return Experiment.model_validate({name: value for name, value in config.items() if name != "manifest"})
    except ValueError as error:
        raise UserError(f"W&B project {project}, run {run.name}: its config is not valid here: {error}") from error


def _our_row(run: Any, experiment: Experiment, manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run": run.name,
        "cell": manifest["config_hash"],
        **{f"seed_{name}": value for name, value in experiment.seeds.model_dump().items()},
        "state": run.summary.get("state", run.state),
        "name": experiment.name,
        "task": experiment.task,
        "trained_task": manifest["task"]["name"],
        "model": experiment.model,
        "reward": experiment.reward.label(),
        "algorithm": experiment.algorithm.name,
        "learning_rate": experiment.train.learning_rate,
        "commit": (manifest.get("git") or {}).get("commit"),
    }


def _our_metrics(run: str, history: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"run": run, "step": int(line["_step"]), "metric": name, "value": float(value)}
        for line in history
        for name, value in line.items()
        if not name.startswith(BESIDE) and isinstance(value, int | float)
    ]


def _their_metrics(run: str, history: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for line in history:
        step = line.get("training/global_step", line.get("_step"))
        known = {name: value for name, value in line.items() if metric_name(name) is not None}
        rows += renamed(run, int(step), known) if step is not None else []
    return rows
