"""What the study's runs will take: planned runs (analysis/budget.yaml) times the time of measured ones.

    python -m analysis.budget RECORDS [--plan FILE]

RECORDS has a folder of replicates for each measured cell. Of every (model, task) the median run is taken: its seconds a
step, and what it spends beside its steps (loading, evaluations). Its thread count is named, as runs with one thread are
meant to share two cores.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
import yaml
from pydantic import Field, ValidationError

from ttrl_repro.config import describe
from ttrl_repro.errors import UserError
from ttrl_repro.parts import Strict
from ttrl_repro.records import Record

PLAN = Path(__file__).resolve().parent / "budget.yaml"
AT_A_TIME = 2  # runs with one thread each on two cores


class Planned(Strict):
    """Some runs of one kind."""

    what: str
    model: str
    task: str
    steps: int = Field(ge=1)
    runs: int = Field(ge=1)


class Plan(Strict):
    """The content of a budget file."""

    runs: tuple[Planned, ...] = Field(min_length=1)


class Measured(Strict):
    """Median times of measured runs: seconds a step, seconds beside the steps, and how many runs they are of."""

    step: float
    beside: float
    runs: int


def read_plan(path: Path = PLAN) -> Plan:
    """The planned runs. Raises UserError naming file and field."""
    try:
        return Plan.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise UserError(f"{path}: cannot read the budget: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error, Plan)}") from error


def measure(folder: Path) -> dict[tuple[str, str], Measured]:
    """Times by (model, task) of the finished one-thread runs in `folder`/CELL/RUN.

    Raises UserError if there is none.
    """
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for path in sorted(folder.glob("*/*/manifest.json")):
        manifest = Record.reopen(path.parent).manifest
        if manifest["state"] != "finished" or manifest["threads"] != 1:
            continue
        began, ended = (datetime.fromisoformat(manifest[name]) for name in ("created", "ended"))
        seconds = manifest["cost"]["seconds"]
        times = (seconds / manifest["steps_done"], (ended - began).total_seconds() - seconds)
        found.setdefault((manifest["model"]["name"], manifest["task"]["name"]), []).append(times)
    if not found:
        raise UserError(f"{folder}: no finished runs with one thread here")
    return {
        cell: Measured(step=median(s for s, _ in runs), beside=median(b for _, b in runs), runs=len(runs))
        for cell, runs in found.items()
    }


def table(plan: Sequence[Planned], measured: Mapping[tuple[str, str], Measured]) -> str:
    """Markdown: a row per kind of run, and the sum. A model and task that was not measured is a UserError."""
    lines = ["| for | base | task | runs | steps | seconds a run | hours |", "|---" * 7 + "|"]
    total = 0.0
    for row in plan:
        times = measured.get((row.model, row.task))
        if times is None:
            raise UserError(f"budget: no measured run of {row.model} on {row.task}")
        seconds = times.step * row.steps + times.beside
        hours = seconds * row.runs / AT_A_TIME / 3600
        total += hours
        lines.append(
            f"| {row.what} | {row.model} | {row.task} | {row.runs} | {row.steps} | {seconds:.0f} | {hours:.2f} |"
        )
    lines.append(f"| all | | | {sum(row.runs for row in plan)} | | | {total:.1f} |")
    return "\n".join(lines) + "\n"


def main(
    records: Annotated[Path, typer.Argument(help="folder of the measured runs")],
    plan: Annotated[Path, typer.Option(help="budget file")] = PLAN,
) -> None:
    """Print the budget."""
    print(table(read_plan(plan).runs, measure(records)), end="")


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        print(f"budget: {error}", file=sys.stderr)
        raise SystemExit(2) from None
