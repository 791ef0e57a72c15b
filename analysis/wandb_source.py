"""Runs from W&B in the tables of `analysis.load`, by its API: the whole history, never its 500-row sample.

W&B is a mirror of the records: it has their metrics and configs, not the votes and answers. So of a project `runs`,
`metrics` and `configs` are filled; what needs answers needs the records. Runs of the authors' own code (verl) are
recognised by their metrics' names and renamed (analysis/verl.py); of these there is no config of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.load import Study, protocol, reward_label
from analysis.verl import metric_name, renamed
from ttrl_repro.config import Experiment
from ttrl_repro.errors import UserError

BESIDE = ("_", "time/", "eval/")  # prefixes of what our mirror logs beside the record's metrics
TABLE = "samples"  # a table of texts


def load_wandb(project: str, filters: Mapping[str, Any] | None = None, api: Any = None) -> Study:
    """The runs of a project (`entity/project`), in the order of their creation.

    filters: as W&B's API takes them. api: a `wandb.Api`, made if not given. Raises UserError if the project cannot be
    read or has no runs, or for a run of this package whose config is not valid here.
    """
    import wandb

    if api is None:
        try:
            api = wandb.Api()
        except (wandb.errors.Error, ValueError) as error:
            raise UserError(f"W&B: {' '.join(str(error).split())}; log in first (wandb login)") from error
    try:
        runs = list(api.runs(project, filters=dict(filters or {}), order="+created_at"))
    except (ValueError, wandb.errors.Error) as error:  # ValueError: a project that W&B does not find
        raise UserError(f"W&B project {project}: {' '.join(str(error).split())}") from error
    if not runs:
        raise UserError(f"W&B project {project}: no runs")
    names = [run.name for run in runs]
    rows, metrics, configs = [], list[dict[str, Any]](), dict[str, Experiment]()
    for run in runs:
        config = dict(run.config)
        name = run.name if names.count(run.name) == 1 else f"{run.name} ({run.id})"
        history = list(run.scan_history())
        if "manifest" in config:
            experiment, manifest = _experiment(project, run, config), config["manifest"]
            configs[name] = experiment
            own = _our_metrics(name, history)
            rows.append(
                {**_our_row(run, experiment, manifest, max((row["step"] for row in own), default=0)), "run": name}
            )
        else:
            own = _their_metrics(name, history)
            rows.append({"run": name, "cell": run.group or run.id, "name": run.name, "state": run.state})
        metrics += own
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


def _our_row(run: Any, experiment: Experiment, manifest: Mapping[str, Any], steps: int) -> dict[str, Any]:
    return {
        "run": run.name,
        "cell": manifest["config_hash"],
        **{f"seed_{name}": value for name, value in experiment.seeds.model_dump().items()},
        "state": run.summary.get("state", run.state),
        "name": experiment.name,
        "task": experiment.task,
        "trained_task": manifest["task"]["name"],
        "model": experiment.model,
        "questions": manifest["task"].get("fingerprint"),
        "weights": (manifest.get("model") or {}).get("weights"),
        "reward": reward_label(experiment),
        "algorithm": experiment.algorithm.name,
        "learning_rate": experiment.train.learning_rate,
        "steps_done": steps,
        "k": experiment.evaluate.k,
        "temperature": experiment.evaluate.temperature,
        "protocol": protocol(experiment.evaluate),
        "commit": (manifest.get("git") or {}).get("commit"),
    }


def _our_metrics(run: str, history: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"run": run, "step": int(line["_step"]), "metric": name, "value": float(value)}
        for line in history
        for name, value in line.items()
        if not name.startswith(BESIDE) and name != TABLE and isinstance(value, int | float)
    ]


def _their_metrics(run: str, history: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for line in history:
        step = line.get("training/global_step", line.get("_step"))
        known = {name: value for name, value in line.items() if metric_name(name) is not None}
        rows += renamed(run, int(step), known) if step is not None else []
    return rows
