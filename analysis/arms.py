"""The arms of the study: what its tables, figures and findings call a cell by (analysis/arms.yaml).

An arm is an experiment file of the project, with some fields set otherwise. Its runs are those of the same cell, by
`Experiment.cell_hash`, whatever their names and folders: so one run serves every table that needs its cell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from analysis.claims import seeds_of
from analysis.load import Study, rows_of
from ttrl_repro.config import Experiment, describe, experiment_from, read_experiment
from ttrl_repro.errors import UserError
from ttrl_repro.parts import Strict
from ttrl_repro.tasks.miniature import DEVELOPMENT_DRAWS
from ttrl_repro.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parent.parent
PATH = Path(__file__).with_name("arms.yaml")
Seeds = tuple[int, int, int]  # base seed, question draw, RL seed


class Arm(Strict):
    """An experiment file (from the project's folder), and the fields that differ from it, as `rollout.votes: 4`.

    replicates: how many are planned; replicate r has the seeds `analysis.claims.seeds_of(r)`. No other run counts.
    """

    file: Path = Path("experiments/study.yaml")
    set: dict[str, Any] = Field(default_factory=dict)
    replicates: int = Field(3, ge=1, le=DEVELOPMENT_DRAWS)

    def experiment(self) -> Experiment:
        """The config of its runs. Raises UserError as `load_experiment`."""
        path = ROOT / self.file
        overrides = [f"{name}={json.dumps(value)}" for name, value in self.set.items()]
        return experiment_from(_content(path), overrides, path)


class Arms(Strict):
    """The content of an arms file."""

    arms: dict[str, Arm] = Field(min_length=1)


@cache
def _content(path: Path) -> dict[str, Any]:
    return read_experiment(path)


@dataclass(frozen=True)
class Planned:
    """An arm's config, and how many replicates of it are planned."""

    experiment: Experiment
    replicates: int


def read_arms(path: Path = PATH) -> dict[str, Planned]:
    """Every arm by its name. Raises UserError for a bad file, or if two arms are one cell."""
    try:
        arms = Arms.model_validate(read_yaml(path, "arms")).arms
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error, Arms)}") from error
    found: dict[str, Planned] = {}
    cells: dict[str, str] = {}
    for name, arm in arms.items():
        try:
            found[name] = Planned(arm.experiment(), arm.replicates)
        except UserError as error:
            raise UserError(f"{path}: arm {name}: {error}") from error
        other = cells.setdefault(found[name].experiment.cell_hash(), name)
        if other != name:
            raise UserError(f"{path}: arms {other} and {name} are the same cell")
    return found


def runs_of(study: Study, arms: Mapping[str, Planned]) -> dict[str, dict[Seeds, Mapping[str, Any]]]:
    """The study's finished runs of every arm, rows of `Study.runs`, by their seeds, in order of the replicates.

    Only planned replicates: nobody can add runs until a number pleases. Runs that are not of the frozen laboratory are
    left out (`Study.foreign` names them).
    """
    finished = {
        (run["cell"], run["seed_base"], run["seed_draw"], run["seed_rl"]): run
        for run in rows_of(study.runs)
        if run["state"] == "finished" and run["run"] not in study.foreign
    }
    found: dict[str, dict[Seeds, Mapping[str, Any]]] = {}
    for name, arm in arms.items():
        cell = arm.experiment.cell_hash()
        planned = map(seeds_of, range(arm.replicates))
        found[name] = {seeds: finished[cell, *seeds] for seeds in planned if (cell, *seeds) in finished}
    return found
