"""Sweep files in W&B's own format: `wandb sweep FILE` and `ttrl sweep agent FILE` read the same file.

What a file may hold is W&B's schema (wandb_schema.json, from the package `sweeps` 0.3.0, MIT license, (c) Weights and
Biases). What W&B would do and we cannot is refused, never ignored. `program` is the experiment file; `command` has to
be one of `ttrl run`, so that a cell can also be resumed. Imports no torch and no Optuna.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from ttrl_repro.config import Experiment, experiment_from, name_of, read_experiment
from ttrl_repro.errors import UserError
from ttrl_repro.yaml_files import read_yaml

Params = dict[str, Any]

REFUSED = {
    "controller": "agents need no controller here; leave it out",
    "entity": "use the parameter tracking.entity",
    "image_uri": "use `program` and `command`",
    "job": "use `program` and `command`",
    "metrics": "one metric is optimised; use `metric`",
    "project": "use the parameter tracking.project",
    "scheduler": "`ttrl sweep agent` asks Optuna itself; use `method: random` or `bayes`",
}
LARGEST_EXPONENT = 700.0  # whose power of e is a number
RUN = "run"  # of `ttrl run`; before ${program} in a command
PROGRAM = "${program}"
END = (RUN, PROGRAM, "${args_no_hyphens}")  # of every command


@dataclass(frozen=True)
class Range:
    """A continuous or integer parameter, sampled between low and high (both inside)."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False


@dataclass(frozen=True)
class Choice:
    """A parameter with listed values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Hyperband:
    """Runs that are behind at rungs are ended; rungs are at min_iter * eta ** k steps."""

    min_iter: int
    eta: int


@dataclass(frozen=True)
class Metric:
    """What is optimised: a metric of the record, by its name on W&B."""

    name: str
    maximize: bool


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: its parameters, and what they make of the experiment. key: the record's name."""

    key: str
    params: Params
    experiment: Experiment


@dataclass(frozen=True)
class SweepFile:
    """A sweep file that was read and checked."""

    path: Path
    name: str
    method: str  # grid | random | bayes
    program: Path
    command: tuple[str, ...]
    parameters: Mapping[str, Range | Choice]
    metric: Metric | None
    run_cap: int | None
    early_terminate: Hyperband | None
    content: Mapping[str, Any]  # as read

    def cells(self) -> Iterator[Cell]:
        """The cells of a grid, in W&B's order: the last parameter changes fastest.

        Raises UserError for a cell whose experiment is not valid, and for two cells that are the same experiment.
        """
        names, seen = list(self.parameters), dict[str, Params]()
        for values in itertools.product(*(_listed(self.parameters[name]) for name in names)):
            cell = self.cell(dict(zip(names, values, strict=True)))
            if cell.key in seen:
                raise UserError(f"{self.path}: two cells are the same run {cell.key}: {seen[cell.key]}, {cell.params}")
            seen[cell.key] = cell.params
            yield cell

    def cell(self, params: Params) -> Cell:
        """The cell of these parameters. Raises UserError if they make no experiment, or one without the metric."""
        try:
            experiment = experiment_from(_program(self.program), overrides_of(params), self.program)
        except UserError as error:
            raise UserError(f"{self.path}: {error} (with {' '.join(overrides_of(params))})") from None
        if self.metric is not None and self.metric.name.startswith("eval/"):
            known = evaluation_names(experiment)
            if self.metric.name not in known:
                raise UserError(
                    f"{self.path}: metric: no {self.metric.name} in an evaluation; known: {', '.join(known)}"
                )
        return Cell(name_of(experiment), params, experiment)

    def size(self) -> int | None:
        """How many runs the sweep has in all; None if it has no end."""
        if self.method == "grid":
            cells = math.prod(len(_listed(space)) for space in self.parameters.values())
            return cells if self.run_cap is None else min(cells, self.run_cap)
        return self.run_cap

    def space(self) -> dict[str, Any]:
        """What may not change while results are collected: two sweeps with the same space are one sweep."""
        fixed = {"method": self.method, "metric": self.content.get("metric"), "parameters": sorted(self.parameters)}
        if self.method != "grid":
            fixed["parameters"] = self.content["parameters"]
            fixed["early_terminate"] = self.content.get("early_terminate")
            fixed["experiment"] = hashlib.sha256(
                json.dumps(_program(self.program), sort_keys=True).encode()
            ).hexdigest()[:12]
        return fixed

    def argv(self, params: Mapping[str, Any], interpreter: str) -> list[str]:
        """The command that runs a cell, its macros replaced as W&B's agent replaces them."""
        return self._expanded(self.command, params, interpreter)

    def resume_argv(self, folder: Path, interpreter: str) -> list[str]:
        """The command that goes on with a record: the same with `resume FOLDER` in place of `run FILE key=value`."""
        return [*self._expanded(self.command[: -len(END)], {}, interpreter), "resume", str(folder)]

    def _expanded(self, command: Sequence[str], params: Mapping[str, Any], interpreter: str) -> list[str]:
        macros = {
            "${env}": ["/usr/bin/env"],
            "${interpreter}": [interpreter],
            PROGRAM: [str(self.program)],
            "${args_no_hyphens}": overrides_of(params),
        }
        return [part for chunk in command for part in macros.get(chunk, [_environment(chunk)])]


def overrides_of(params: Mapping[str, Any]) -> list[str]:
    """Parameters as `ttrl run` takes them, and as W&B writes ${args_no_hyphens}: `rollout.votes=16`."""
    return [f"{name}={value}" for name, value in params.items()]


def evaluation_names(experiment: Experiment) -> list[str]:
    """Metrics of the last evaluation of an experiment's own tasks, by their names on W&B (`summary.headline`)."""
    settings = experiment.evaluate
    task = Path(experiment.task).stem
    sets = [
        f"{task}/train",
        *([f"{task}/fresh"] if settings.fresh else []),
        *(f"{Path(t).stem}/train" for t in settings.tasks),
    ]
    ways = ["greedy", *(f"T={settings.temperature:g}/{m}" for m in (f"avg@{settings.k}", f"maj@{settings.votes}"))]
    return [f"eval/{one}/{way}" for one in sets for way in ways]


_program = cache(read_experiment)  # once for all cells


def read_sweep(path: Path) -> SweepFile:
    """Read a sweep file and check all of it but the cells. Raises UserError naming file and field."""
    content = read_yaml(path, "sweep")
    try:
        return _checked(path, content)
    except _Refused as error:
        raise UserError(f"{path}: {error}") from None


class _Refused(Exception):
    """What is wrong with a file, without its name."""


def _checked(path: Path, content: Any) -> SweepFile:
    complaint = schema_complaint(content)
    if complaint:
        raise _Refused(complaint)
    for field, instead in REFUSED.items():
        if field in content:
            raise _Refused(f"{field}: not supported; {instead}")
    method = content["method"]
    if method == "custom":
        raise _Refused("method: 'custom' is for W&B's own schedulers; use grid, random or bayes")
    if not content.get("parameters"):
        raise _Refused("parameters: missing, so there is nothing to sweep")
    if "program" not in content:
        raise _Refused("program: missing; give the experiment file")
    program = Path(content["program"])
    if not program.is_file():
        raise _Refused(f"program: there is no experiment file {program} in {Path.cwd()}")
    metric = _metric(content.get("metric"))
    if method != "grid" and metric is None:
        raise _Refused(f"metric: missing; {method} needs one")
    if "early_terminate" in content and (metric is None or method == "grid"):
        raise _Refused("early_terminate: needs a metric, and method random or bayes")
    if "early_terminate" in content and metric is not None and metric.name.startswith("eval/"):
        raise _Refused("early_terminate: needs a metric of every step, and evaluations are not")
    if method != "grid" and "run_cap" not in content:
        raise _Refused(f"run_cap: missing; {method} would go on for ever")
    name = content.get("name", path.stem)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise _Refused(f"name: {name!r} names a folder, so use letters, digits, dots, dashes and underscores")
    return SweepFile(
        path=path,
        name=name,
        method=method,
        program=program,
        command=_command(content.get("command")),
        parameters={key: _parameter(key, spec, method) for key, spec in content["parameters"].items()},
        metric=metric,
        run_cap=content.get("run_cap"),
        early_terminate=_hyperband(content.get("early_terminate")),
        content=content,
    )


@cache
def _schema() -> jsonschema.Draft7Validator:
    schema = json.loads((resources.files("ttrl_repro.sweeps") / "wandb_schema.json").read_text())
    formats = jsonschema.FormatChecker(())
    formats.checks("float")(lambda value: isinstance(value, float))
    formats.checks("integer")(lambda value: isinstance(value, int))
    return jsonschema.Draft7Validator(schema, format_checker=formats)


def schema_complaint(content: Any) -> str | None:
    """What W&B's schema has against a sweep file's content, in one line; None if nothing."""
    errors = sorted(_schema().iter_errors(content), key=lambda error: list(map(str, error.path)))
    if not errors:
        return None
    where = ".".join(map(str, errors[0].path)) or "(top level)"
    if list(errors[0].path)[:1] == ["parameters"] and errors[0].validator == "anyOf":
        return (
            f"{where}: {json.dumps(errors[0].instance)} is no parameter that W&B knows (value, values, or min and max)"
        )
    return f"{where}: {errors[0].message}"


def _metric(spec: Mapping[str, Any] | None) -> Metric | None:
    if spec is None:
        return None
    for field, instead in (
        ("impute", "runs that fail tell Optuna nothing"),
        ("impute_while_running", "runs that go on tell Optuna nothing"),
        ("target", "use run_cap"),
    ):
        if field in spec:
            raise _Refused(f"metric.{field}: not supported; {instead}")
    return Metric(spec["name"], spec.get("goal", "minimize") == "maximize")


def _hyperband(spec: Mapping[str, Any] | None) -> Hyperband | None:
    if spec is None:
        return None
    if "min_iter" not in spec:
        raise _Refused("early_terminate: give min_iter; rungs counted back from max_iter are not supported")
    for field in ("max_iter", "s", "strict"):
        if field in spec:
            raise _Refused(f"early_terminate.{field}: not supported; give min_iter and eta")
    eta = spec.get("eta", 3)
    if eta != int(eta) or eta < 2:
        raise _Refused(f"early_terminate.eta: Optuna needs an integer of 2 or more, not {eta:g}")
    return Hyperband(spec["min_iter"], int(eta))


def _parameter(name: str, spec: Mapping[str, Any], method: str) -> Range | Choice:
    if "parameters" in spec:
        inner = next(iter(spec["parameters"]))
        raise _Refused(f"parameters.{name}: nested parameters are not supported; write {name}.{inner}")
    if "probabilities" in spec:
        raise _Refused(f"parameters.{name}.probabilities: not supported; every value is as likely as another")
    if "values" in spec or "value" in spec:
        values = tuple(spec["values"] if "values" in spec else [spec["value"]])
        for value in values:
            if value is None:
                raise _Refused(f"parameters.{name}: W&B passes null as the word None; leave the parameter out")
            if not _is_json(value):
                raise _Refused(f"parameters.{name}: {value} is no number, word, list or mapping; put it in quotes")
        if len({json.dumps(value, sort_keys=True) for value in values}) < len(values):
            raise _Refused(f"parameters.{name}: a value is listed twice")
        return Choice(values)
    return _range(name, spec, method)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def _range(name: str, spec: Mapping[str, Any], method: str) -> Range:
    integers = all(isinstance(spec.get(end), int) for end in ("min", "max"))
    kind = spec.get("distribution", "int_uniform" if integers else "uniform")
    if kind not in ("uniform", "int_uniform", "log_uniform", "log_uniform_values", "q_uniform"):
        raise _Refused(
            f"parameters.{name}.distribution: {kind} is not supported; known: uniform, int_uniform, log_uniform, "
            f"log_uniform_values, q_uniform"
        )
    low, high = spec["min"], spec["max"]
    if not low < high:
        raise _Refused(f"parameters.{name}: min ({low}) must be below max ({high})")
    if kind == "log_uniform":  # its bounds are exponents
        if high > LARGEST_EXPONENT:
            raise _Refused(f"parameters.{name}: log_uniform takes exponents; for the values use log_uniform_values")
        return Range(math.exp(low), math.exp(high), log=True)
    found = Range(
        low,
        high,
        log=kind == "log_uniform_values",
        step=spec.get("q", 1.0) if kind == "q_uniform" else None,
        integer=kind == "int_uniform",
    )
    if found.step is not None and any(
        not math.isclose(end / found.step, round(end / found.step), abs_tol=1e-9) for end in (low, high)
    ):
        raise _Refused(f"parameters.{name}: min and max must be multiples of q ({found.step})")
    if method == "grid" and not found.integer:
        raise _Refused(f"parameters.{name}: a grid needs values, or min and max as integers")
    return found


def _listed(space: Range | Choice) -> Sequence[Any]:
    if isinstance(space, Choice):
        return space.values
    return range(int(space.low), int(space.high) + 1)


def _command(parts: Sequence[Any] | None) -> tuple[str, ...]:
    advice = 'use [ttrl, run, "${program}", "${args_no_hyphens}"], with anything before it'
    if parts is None:
        raise _Refused(f"command: missing; {advice}")
    command = tuple(str(part) for part in parts)
    macros = {part for part in command if part.startswith("${") and not part.startswith("${envvar:")}
    unknown = macros - {"${env}", "${interpreter}", PROGRAM, "${args_no_hyphens}"}
    if unknown:
        raise _Refused(f"command: {min(unknown)} is nothing that `ttrl run` takes; {advice}")
    if command[-len(END) :] != END:
        raise _Refused(f"command: must end with run, {PROGRAM}, ${{args_no_hyphens}}; {advice}")
    return command


def _environment(chunk: str) -> str:
    """${envvar:NAME} replaced, as W&B does: by the name itself where there is no such variable."""
    return re.sub(r"\$\{envvar:([A-Za-z0-9_]+)\}", lambda match: os.environ.get(match[1], match[1]), chunk)
