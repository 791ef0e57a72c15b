"""What the study's runs will take: planned runs (analysis/budget.yaml) times the time of measured ones.

    python -m analysis.budget RECORDS ... [--plan FILE] [--bases FOLDER]

RECORDS hold records at any depth. Of every (model, task) the median run is taken: its seconds a step, and what it
spends beside its steps (loading, evaluations), from its beginning to its end. Only finished runs with one thread count,
two of which share two cores, and no resumed ones, since the time in which they lay still would count. Records say
whether they were resumed (`resumed` in the manifest); those from before that field do not, so give runs that were not
interrupted. A (model, task) that was not measured is scaled from another model on that task, by the ratio of the two
models on a task that both were measured on; such rows are marked with ~.

Pretraining takes what the pretraining of a base of that size took, by its recipe.json, in proportion to the tokens:
of a shipped base, or of one in the folder --bases.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from pydantic import Field, ValidationError, model_validator

from ttrl_repro.config import describe, load_experiment
from ttrl_repro.errors import UserError, in_one_line
from ttrl_repro.miniature.recipes import load_recipe
from ttrl_repro.parts import Strict
from ttrl_repro.records import Record
from ttrl_repro.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parent.parent
PLAN = ROOT / "analysis" / "budget.yaml"
AT_A_TIME = 2  # runs with one thread each on two cores
SHIPPED = Path(str(resources.files("ttrl_repro.miniature") / "weights"))


class Planned(Strict):
    """Some runs of one kind: of an experiment file (from the project's folder), or some pretrainings of a recipe.

    model, task, steps: in place of the file's, or without a file.
    """

    what: str
    runs: int = Field(ge=1)
    experiment: Path | None = None
    pretrain: str | None = None
    model: str | None = None
    task: str | None = None
    steps: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_kind(self) -> Planned:
        own = (self.model, self.task, self.steps)
        if self.pretrain is not None and (self.experiment is not None or own != (None, None, None)):
            raise ValueError("pretrain: leave out experiment, model, task and steps")
        if self.pretrain is None and self.experiment is None and None in own:
            raise ValueError("give experiment, or model, task and steps, or pretrain")
        return self

    def cell(self) -> tuple[str, str, int]:
        """Model, task and steps of its runs. Raises UserError as `load_experiment`."""
        if self.experiment is None:
            assert self.model is not None
            assert self.task is not None
            assert self.steps is not None
            return self.model, self.task, self.steps
        read = load_experiment(ROOT / self.experiment)
        return self.model or read.model, self.task or read.task, self.steps or read.train.steps


class Plan(Strict):
    """The content of a budget file."""

    runs: tuple[Planned, ...] = Field(min_length=1)


class Measured(Strict):
    """Median times of measured runs: seconds a step, seconds beside the steps, how many runs they are of; 0: scaled."""

    step: float
    beside: float
    runs: int

    def times(self, slow: Measured, fast: Measured) -> Measured:
        """These times of another model, by the ratio of its times to this one's on some other task."""
        return Measured(step=self.step * slow.step / fast.step, beside=self.beside * slow.beside / fast.beside, runs=0)


class Pretrained(Strict):
    """What a base took. threads: None in the recipe.json of older ones."""

    name: str
    architecture: dict[str, int]
    tokens: int
    seconds: float
    threads: int | None


def read_plan(path: Path = PLAN) -> Plan:
    """The planned runs. Raises UserError naming file and field."""
    content = read_yaml(path, "budget")
    try:
        return Plan.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error, Plan)}") from error


def measure(folders: Sequence[Path]) -> dict[tuple[str, str], Measured]:
    """Times by (model, task) of the finished one-thread runs in these folders that were never resumed.

    Raises UserError if there is none.
    """
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for path in (path for folder in folders for path in sorted(folder.rglob("manifest.json"))):
        record = Record.reopen(path.parent)
        manifest = record.manifest
        if manifest["state"] != "finished" or manifest["threads"] != 1 or manifest.get("resumed"):
            continue
        seconds, beside = record.seconds()
        times = (seconds / manifest["steps_done"], beside)
        found.setdefault((manifest["model"]["name"], manifest["task"]["name"]), []).append(times)
    if not found:
        raise UserError(f"{', '.join(map(str, folders))}: no finished runs with one thread, never resumed, here")
    return {
        cell: Measured(step=median(s for s, _ in runs), beside=median(b for _, b in runs), runs=len(runs))
        for cell, runs in found.items()
    }


def estimated(model: str, task: str, measured: Mapping[tuple[str, str], Measured]) -> Measured:
    """Times of a (model, task): as measured, or scaled from another model. Raises UserError if neither can be."""
    if (model, task) in measured:
        return measured[model, task]
    for other, common in measured:
        if other != model and (other, task) in measured and (model, common) in measured:
            return measured[other, task].times(measured[model, common], measured[other, common])
    raise UserError(f"no measured run of {model} on {task}, nor of both with another model and task")


def pretrained(folders: Sequence[Path]) -> list[Pretrained]:
    """The bases in these folders. Raises UserError for a recipe.json that `ttrl pretrain` did not write."""
    bases = []
    for path in (path for folder in folders for path in sorted(folder.glob("*/recipe.json"))):
        try:
            content = json.loads(path.read_text())
            recipe, summary = content["recipe"], content["summary"]
            bases.append(
                Pretrained(
                    name=recipe["name"],
                    architecture=recipe["architecture"],
                    tokens=summary["tokens"],
                    seconds=summary["seconds"],
                    threads=summary.get("threads"),
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: is not the recipe of a base ({' '.join(str(error).split())})") from error
    return bases


def pretraining(name: str, bases: Sequence[Pretrained]) -> tuple[float, int]:
    """Seconds of a recipe's pretraining, and how many go at a time: two where one thread is known to have done it.

    By bases of that recipe, or else of its architecture; of several the median one. Raises UserError if there is none.
    """
    recipe = load_recipe(name)
    alike = [base for base in bases if base.architecture == recipe.architecture.model_dump()]
    own = [base for base in alike if base.name == name] or alike
    if not own:
        raise UserError(f"no base of the size of {name} was measured; give a folder that has one with --bases")
    base = sorted(own, key=lambda base: base.seconds / base.tokens)[(len(own) - 1) // 2]
    return base.seconds * recipe.corpus.tokens / base.tokens, AT_A_TIME if base.threads == 1 else 1


def table(
    plan: Sequence[Planned], measured: Mapping[tuple[str, str], Measured], bases: Sequence[Pretrained] = ()
) -> str:
    """Markdown: a row per kind of run, and the sum. What was not measured is a UserError."""
    lines = ["| for | base | task | runs | steps | seconds a run | hours |", "|---" * 7 + "|"]
    total = 0.0
    for row in plan:
        mark = ""
        if row.pretrain is not None:
            seconds, at_a_time = pretraining(row.pretrain, bases)
            what = f"{row.pretrain} | pretraining | {row.runs} | "
        else:
            model, task, steps = row.cell()
            times = estimated(model, task, measured)
            seconds, at_a_time = times.step * steps + times.beside, AT_A_TIME
            mark = "" if times.runs else "~"
            what = f"{model} | {task} | {row.runs} | {steps}"
        hours = seconds * row.runs / at_a_time / 3600
        total += hours
        lines.append(f"| {row.what} | {what} | {mark}{seconds:.0f} | {hours:.2f} |")
    lines.append(f"| all | | | {sum(row.runs for row in plan)} | | | {total:.1f} |")
    return "\n".join(lines) + "\n"


def main(
    records: Annotated[list[Path], typer.Argument(help="folders of the measured runs")],
    plan: Annotated[Path, typer.Option(help="budget file")] = PLAN,
    bases: Annotated[Path | None, typer.Option(help="folder of bases, beside the shipped ones")] = None,
) -> None:
    """Print the budget."""
    folders = [SHIPPED] if bases is None else [SHIPPED, bases]
    print(table(read_plan(plan).runs, measure(records), pretrained(folders)), end="")


if __name__ == "__main__":
    with in_one_line("budget"):
        typer.run(main)
