"""The arms of the study: what its tables, figures and findings call a cell by (analysis/arms.yaml).

An arm is an experiment file of the project, with some fields set otherwise. Its runs are those of the same cell, by
`Experiment.cell_hash`, whatever their names and folders: so one run serves every table that needs its cell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field, ValidationError

from analysis.load import Study
from ttrl_repro.config import Experiment, describe, experiment_from, read_experiment
from ttrl_repro.errors import UserError
from ttrl_repro.parts import Strict
from ttrl_repro.tasks.miniature import DEVELOPMENT_DRAWS
from ttrl_repro.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parent.parent
PATH = Path(__file__).with_name("arms.yaml")


class Arm(Strict):
    """An experiment file (from the project's folder), and the fields that differ from it, as `rollout.votes: 4`."""

    file: Path = Path("experiments/study.yaml")
    set: dict[str, Any] = Field(default_factory=dict)

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


def read_arms(path: Path = PATH) -> dict[str, Experiment]:
    """The config of every arm, by its name. Raises UserError for a bad file, or if two arms are one cell."""
    try:
        arms = Arms.model_validate(read_yaml(path, "arms")).arms
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error, Arms)}") from error
    found: dict[str, Experiment] = {}
    cells: dict[str, str] = {}
    for name, arm in arms.items():
        try:
            found[name] = arm.experiment()
        except UserError as error:
            raise UserError(f"{path}: arm {name}: {error}") from error
        other = cells.setdefault(found[name].cell_hash(), name)
        if other != name:
            raise UserError(f"{path}: arms {other} and {name} are the same cell")
    return found


def runs_of(study: Study, arms: Mapping[str, Experiment]) -> pd.DataFrame:
    """The study's finished runs of these arms, on the study's own draws, with `arm` in front; in the arms' order."""
    names = {experiment.cell_hash(): name for name, experiment in arms.items()}
    runs = study.runs[(study.runs["state"] == "finished") & (study.runs["seed_draw"] < DEVELOPMENT_DRAWS)]
    runs = runs.assign(arm=runs["cell"].map(names))
    runs = runs[runs["arm"].notna()]
    ranked = runs.assign(rank=runs["arm"].map({name: i for i, name in enumerate(arms)}))
    return ranked.sort_values(["rank", "seed_draw", "run"]).drop(columns="rank")
