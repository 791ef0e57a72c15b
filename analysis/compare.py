"""Runs, or cells of replicates, side by side: where their configs differ, and what came of it. `ttrl compare`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.arms import Seeds
from analysis.load import Study, load, rows_of
from analysis.measures import Measurements, Quantity, estimated
from ttrl_repro.config import Experiment
from ttrl_repro.errors import UserError
from ttrl_repro.report import console

# title -> measure and when; the base's first, then what training made of it, then training itself.
SHOWN: dict[str, tuple[str, str]] = {
    "base greedy": ("base_greedy", "end"),
    "base avg": ("base_avg", "end"),
    "base avg, best T": ("base_best_avg", "end"),
    "base maj, best T": ("base_best_maj", "end"),
    "greedy": ("greedy", "end"),
    "avg": ("avg", "end"),
    "maj": ("maj", "end"),
    "pass": ("pass", "end"),
    "label accuracy, first": ("label_accuracy", "first"),
    "label accuracy, last": ("label_accuracy", "last"),
    "majority ratio, last": ("majority_ratio", "last"),
    "entropy, last": ("entropy", "last"),
}
DIFFERENCE = "avg - avg of the first"
SAME = ("questions", "model", "weights", "protocol")  # of runs whose difference is taken


@dataclass(frozen=True)
class Side:
    """The runs of one column: a name, their config but for the seeds, and the study that they are in."""

    name: str
    experiment: Experiment
    study: Study

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Its finished runs."""
        return rows_of(self.study.runs[self.study.runs["state"] == "finished"])


def read_side(path: Path) -> Side:
    """A record, or a folder of replicates of one cell.

    Raises UserError as `load`, if there are several cells, and if no run has finished.
    """
    study = load(path)
    cells = study.runs["cell"].unique()
    if len(cells) > 1:
        raise UserError(f"{path}: holds runs of {len(cells)} cells; give a run, or a folder of one cell's replicates")
    if not (study.runs["state"] == "finished").any():
        raise UserError(f"{path}: no finished run; this one is {study.runs['state'].iloc[0]}")
    return Side(str(path), next(iter(study.configs.values())), study)


def flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings as `rollout.votes` -> value."""
    (flat,) = pd.json_normalize(dict(values)).to_dict("records")
    return {str(name): value for name, value in flat.items()}


def config_differences(experiments: Sequence[Experiment]) -> pd.DataFrame:
    """A row per field that differs, seeds, name, claim and tracking aside: its value in each ("" if absent)."""
    left_out = {"seeds", "name", "claim", "tracking"}
    flat = [flattened(experiment.model_dump(mode="json", exclude=left_out)) for experiment in experiments]
    names = list(dict.fromkeys(name for one in flat for name in one))
    rows = [[name, *("" if name not in one else str(one[name]) for one in flat)] for name in names]
    return pd.DataFrame([row for row in rows if len(set(row[1:])) > 1], columns=["field", *range(len(flat))])


def outcomes(sides: Sequence[Side]) -> pd.DataFrame:
    """A row per measure of SHOWN and side: title, side (its place), n, value, low, high over its runs.

    A run that lacks a measure (no true labels, no such metric) does not count in it, which n says. Last DIFFERENCE, of
    sides that share replicates with the first one, on the same questions and bases: paired on them.
    """
    rows: list[list[Any]] = []
    averages: list[dict[Seeds, float]] = []
    for place, side in enumerate(sides):
        measurements = Measurements(side.study)
        averages.append({})
        for title, (measure, at) in SHOWN.items():
            quantity = Quantity.model_validate({"arm": side.name, "measure": measure, "at": at})
            values: dict[Seeds, float] = {}
            for run in side.runs:
                with contextlib.suppress(UserError):  # absent, not zero
                    values[_seeds(run)] = measurements.of(run, quantity)
            if values:
                rows.append([title, place, *estimated(list(values.values()))])
            if title == "avg":
                averages[place] = values
    for place, values in enumerate(averages[1:], start=1):
        shared = sorted(values.keys() & averages[0].keys())
        if shared and _comparable(sides[0], sides[place], shared):
            differences = np.array([values[seeds] - averages[0][seeds] for seeds in shared])
            rows.append([DIFFERENCE, place, *estimated(differences)])
    return pd.DataFrame(rows, columns=["title", "side", "n", "value", "low", "high"])


def _comparable(one: Side, other: Side, shared: Sequence[Seeds]) -> bool:
    """Whether paired runs have the same questions, base and protocol, so that their difference is one of training."""
    runs = [{_seeds(run): run for run in side.runs} for side in (one, other)]
    return all(runs[0][seeds][name] == runs[1][seeds][name] for seeds in shared for name in SAME)


def _seeds(run: Mapping[str, Any]) -> Seeds:
    return run["seed_base"], run["seed_draw"], run["seed_rl"]


def print_comparison(paths: Sequence[Path], out: Console | None = None) -> None:
    """Print both tables. Raises UserError as `read_side`, and if fewer than two are given."""
    if len(paths) < 2:
        raise UserError("give two runs or more, or folders of replicates")
    sides, out = [read_side(path) for path in paths], out or console()
    for place, side in enumerate(sides):
        count = len(side.runs)
        out.print(Text(f"{place}: {side.name}, {count} run{'s' * (count != 1)}"))
    differences = config_differences([side.experiment for side in sides])
    if differences.empty:
        out.print("\nconfigs are the same but for seeds and names", highlight=False)
    else:
        out.print(_rich(["field", *map(str, range(len(sides)))], differences.to_numpy().tolist()))
    found = outcomes(sides)
    rows = []
    for title, group in found.groupby("title", sort=False):
        cells = {row["side"]: _cell(row, signed=title == DIFFERENCE) for row in rows_of(group)}
        rows.append([str(title), *(cells.get(place, "") for place in range(len(sides)))])
    out.print(_rich(["", *map(str, range(len(sides)))], rows))
    out.print(
        "Means over runs with 95 % intervals over replicates: other draws and seeds. Of a single run: none.",
        highlight=False,
    )


def _cell(row: Mapping[str, Any], signed: bool) -> str:
    sign = "+" if signed else ""
    count = f" (n = {row['n']})" if row["n"] > 1 else ""
    interval = count if np.isnan(row["low"]) else f" [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]{count}"
    return f"{row['value']:{sign}.3f}{interval}"


def _rich(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # a prompt may hold what rich takes for markup
    return table
