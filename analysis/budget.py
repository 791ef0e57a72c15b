"""What the study's runs will take: planned runs (analysis/budget.yaml) times the time of measured ones.

    python -m analysis.budget RECORDS ... [--plan FILE] [--bases FOLDER]

RECORDS hold records at any depth. Of every (model, task) the median run is taken: its seconds a step, and what it
spends beside its steps (loading, evaluations), from its beginning to its end. Only finished runs with one thread count,
two of which share two cores, and no resumed ones, since the time in which they lay still would count. Records say
whether they were resumed (`resumed` in the manifest); those from before that field do not, so give runs that were not
interrupted. A (model, task) that was not measured is scaled from another model on that task, by the ratio of the two
models on a task that both were measured on, or a level from the set that it is a part of; such rows are marked with
~.

Pretraining takes what the pretraining of a base of that size took, by its recipe.json, in proportion to the tokens:
of a shipped base, or of one in the folder --bases.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from pydantic import Field, ValidationError, model_validator

from ttrl_repro.config import Experiment, describe, load_experiment
from ttrl_repro.errors import UserError, in_one_line
from ttrl_repro.miniature.recipes import load_recipe
from ttrl_repro.parts import Strict
from ttrl_repro.records import Record
from ttrl_repro.sweeps.files import read_sweep
from ttrl_repro.sweeps.status import samples_of
from ttrl_repro.tasks import load_task
from ttrl_repro.tasks.miniature import LEVELS, WHOLE
from ttrl_repro.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parent.parent
PLAN = ROOT / "analysis" / "budget.yaml"
STANDARD_VOTES = 64  # of the measured runs
AT_A_TIME = 2  # runs with one thread each on two cores
SHIPPED = Path(str(resources.files("ttrl_repro.miniature") / "weights"))


@dataclass(frozen=True)
class Kind:
    """Runs of a sweep that share model and task. steps: their mean, in steps of as many samples as a measured run's.
    evaluated: questions that they evaluate, of those of a run that evaluates its own and fresh ones."""

    model: str
    task: str
    runs: int
    steps: float
    evaluated: float = 1.0


def share_of(experiment: Experiment, questions: int) -> float:
    """Samples of a step, of those of a full one: STANDARD_VOTES of every question."""
    return samples_of(experiment, questions, 1) / (questions * STANDARD_VOTES)


class Planned(Strict):
    """Some runs of one kind: of an experiment file, the cells of a sweep (both from the project's folder), or some
    pretrainings of a recipe.

    model, task, steps: in place of the experiment's, or without a file. A sweep says how many runs it has itself.
    """

    what: str
    runs: int = Field(0, ge=0)
    experiment: Path | None = None
    sweep: Path | None = None
    pretrain: str | None = None
    model: str | None = None
    task: str | None = None
    steps: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_kind(self) -> Planned:
        own = (self.model, self.task, self.steps)
        kinds = [name for name in ("experiment", "sweep", "pretrain") if getattr(self, name) is not None]
        if len(kinds) > 1 or (kinds in (["sweep"], ["pretrain"]) and own != (None, None, None)):
            raise ValueError(f"{kinds[-1]}: leave out {'what is not its' if len(kinds) < 2 else kinds[0]}")
        if not kinds and None in own:
            raise ValueError("give experiment, or model, task and steps, or sweep, or pretrain")
        if (self.runs > 0) == (self.sweep is not None):
            raise ValueError("runs: give how many, but of a sweep")
        return self

    def kind(self) -> Kind:
        """Its runs, of one experiment. Raises UserError as `load_experiment`."""
        model, task, steps = self.cell()
        return Kind(model, task, self.runs, steps)

    def cell(self) -> tuple[str, str, float]:
        """Model, task and steps of its runs, in full ones. Raises UserError as `load_experiment`."""
        if self.experiment is None:
            assert self.model is not None
            assert self.task is not None
            assert self.steps is not None
            return self.model, self.task, self.steps
        read = load_experiment(ROOT / self.experiment)
        task = self.task or read.task
        share = share_of(read, len(load_task(task).questions))
        return self.model or read.model, task, (self.steps or read.train.steps) * share


def kinds_of(sweep: Path) -> list[Kind]:
    """The kinds of runs in a sweep file. A step of fewer votes or questions counts as a part of one.

    Raises UserError as `read_sweep`, and for a search, whose cells are not known.
    """
    read = read_sweep(ROOT / sweep)
    if read.method != "grid":
        raise UserError(f"{sweep}: a search's cells are not known beforehand; give experiment, steps and runs")
    steps: dict[tuple[str, str], list[float]] = {}
    evaluated: dict[tuple[str, str], float] = {}
    for cell in read.cells():
        experiment = cell.experiment
        questions = len(load_task(experiment.task).questions)
        full = experiment.train.steps * share_of(experiment, questions)
        where = (experiment.model, experiment.task)
        steps.setdefault(where, []).append(full)
        others = sum(len(load_task(task).questions) for task in experiment.evaluate.tasks)
        evaluated[where] = 1 + others / (2 * questions)
    return [Kind(*where, len(each), sum(each) / len(each), evaluated[where]) for where, each in steps.items()]


class Plan(Strict):
    """The content of a budget file."""

    runs: tuple[Planned, ...] = Field(min_length=1)


class Measured(Strict):
    """Median times of measured runs: seconds a full step (see `share_of`), seconds beside the steps, of how many runs.

    runs: 0 if scaled.
    """

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
    """Times by (model, task) of the finished one-thread runs in these folders that were never resumed, a full step's.

    Raises UserError if there is none.
    """
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for path in (path for folder in folders for path in sorted(folder.rglob("manifest.json"))):
        record = Record.reopen(path.parent)
        manifest = record.manifest
        if manifest["state"] != "finished" or manifest["threads"] != 1 or manifest.get("resumed"):
            continue
        seconds, beside = record.seconds()
        full = manifest["steps_done"] * share_of(record.experiment(), manifest["task"]["questions"])
        times = (seconds / full, beside)
        found.setdefault((manifest["model"]["name"], manifest["task"]["name"]), []).append(times)
    if not found:
        raise UserError(f"{', '.join(map(str, folders))}: no finished runs with one thread, never resumed, here")
    return {
        cell: Measured(step=median(s for s, _ in runs), beside=median(b for _, b in runs), runs=len(runs))
        for cell, runs in found.items()
    }


def estimated(model: str, task: str, measured: Mapping[tuple[str, str], Measured]) -> Measured:
    """Times of a (model, task): as measured, or scaled from another model, or from the whole set of a level.

    Raises UserError if none can be.
    """
    if (model, task) in measured:
        return measured[model, task]
    for other, common in measured:
        if other != model and (other, task) in measured and (model, common) in measured:
            return measured[other, task].times(measured[model, common], measured[other, common])
    if task in LEVELS:
        whole = estimated(model, WHOLE, measured)
        share = len(load_task(task).questions) / len(load_task(WHOLE).questions)
        return Measured(step=whole.step * share, beside=whole.beside * share, runs=0)
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
    hours, runs = 0.0, 0
    for row in plan:
        if row.pretrain is not None:
            seconds, at_a_time = pretraining(row.pretrain, bases)
            cells = [(f"{row.pretrain} | pretraining | {row.runs} | ", "", row.runs, seconds, at_a_time)]
        else:
            own = kinds_of(row.sweep) if row.sweep is not None else [row.kind()]
            cells = []
            for kind in own:
                times = estimated(kind.model, kind.task, measured)
                what = f"{kind.model} | {kind.task} | {kind.runs} | {kind.steps:.0f}"
                seconds = times.step * kind.steps + times.beside * kind.evaluated
                cells.append((what, "" if times.runs else "~", kind.runs, seconds, AT_A_TIME))
        for what, mark, count, seconds, at_a_time in cells:
            took = seconds * count / at_a_time / 3600
            hours, runs = hours + took, runs + count
            lines.append(f"| {row.what} | {what} | {mark}{seconds:.0f} | {took:.2f} |")
    lines.append(f"| all | | | {runs} | | | {hours:.1f} |")
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
