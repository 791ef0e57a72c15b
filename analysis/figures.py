"""What every figure and table script shares: the study's runs by arm, estimates over replicates, files with a sidecar.

A script has NAME, ARMS (the arms that it draws) and `draw(runs) -> (figure, table)`; `table` holds the drawn numbers.
`python paper_figures/NAME.py` writes NAME.pdf, .png, .csv and .json, the sidecar: which runs, cells and commits. The
script of a table gives markdown in place of a figure, which is written to NAME.md in place of pictures.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from matplotlib.figure import Figure

from analysis.arms import Planned, Seeds, read_arms, runs_of
from analysis.load import Study, load
from analysis.measures import Measurements, Quantity, estimated
from analysis.style import save
from ttrl_repro.config import Experiment
from ttrl_repro.errors import UserError, in_one_line

FOLDER = Path(__file__).resolve().parent.parent / "paper_figures"
RECORDS = FOLDER / "data" / "study"


@dataclass(frozen=True)
class Missing(Exception):
    """Arms of a figure that have no finished run."""

    arms: tuple[str, ...]

    def __str__(self) -> str:
        return f"no finished runs of {', '.join(self.arms)}"


def arms_table(
    runs: Runs, names: Mapping[str, str], heading: str, titles: Mapping[str, str]
) -> tuple[str, pd.DataFrame]:
    """A table of arms (arm -> its name there) by measures (measure -> its title), as a script's `draw` gives it."""
    table = runs.table([(arm, measure, {}) for arm in names for measure in titles])
    return grid(table, list(names.values()), heading, titles), table


def grid(found: pd.DataFrame, rows: Sequence[str], heading: str, titles: Mapping[str, str]) -> str:
    """Markdown of `Runs.table`: a row per arm (its name in `rows`, in order), a column per measure (its title).

    Where there are replicates, intervals; gains with a sign; the number of runs in the second column.
    """
    lines = [f"| {heading} | n | {' | '.join(titles.values())} |", "|---" * (2 + len(titles)) + "|"]
    for name, (_, group) in zip(rows, found.groupby("arm", sort=False), strict=True):
        cells = []
        for measure in titles:
            row = group[group["measure"] == measure].iloc[0]
            sign = "+" if measure.endswith("gain") or measure.endswith("_part") else ""
            interval = "" if np.isnan(row["low"]) else f" [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"
            cells.append(f"{row['value']:{sign}.3f}{interval}")
        lines.append(f"| {name} | {group['n'].iloc[0]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


class Runs:
    """The finished runs of a study by arm, and their measures."""

    def __init__(self, study: Study, arms: Mapping[str, Planned]) -> None:
        self.study, self.planned = study, arms
        self.measurements = Measurements(study)
        self._runs = runs_of(study, arms)

    def config(self, arm: str) -> Experiment:
        """An arm's config."""
        return self.planned[arm].experiment

    def has(self, arm: str) -> bool:
        """Whether an arm has a run."""
        return bool(self._runs[arm])

    def of(self, arm: str) -> dict[Seeds, Mapping[str, Any]]:
        """An arm's runs by their seeds, in order of the replicates. Raises Missing if there is none."""
        self.require((arm,))
        return self._runs[arm]

    def require(self, arms: Sequence[str]) -> None:
        """Raise Missing unless every one of these arms has a run."""
        missing = tuple(arm for arm in arms if not self._runs[arm])
        if missing:
            raise Missing(missing)

    def shared(self, arms: Sequence[str]) -> Runs:
        """The same with those replicates alone that all of these arms have, so that arms compare.

        Raises Missing, naming the arms, if there is none.
        """
        self.require(arms)
        common = set.intersection(*(set(self._runs[arm]) for arm in arms))
        if not common:
            raise Missing(tuple(arms))
        other = copy.copy(self)
        other._runs = {
            arm: {seeds: run for seeds, run in runs.items() if seeds in common} if arm in arms else runs
            for arm, runs in self._runs.items()
        }
        return other

    def values(self, arm: str, measure: str, **where: Any) -> dict[Seeds, float]:
        """A measure (see `Quantity`) of every run of an arm."""
        quantity = Quantity.model_validate({"arm": arm, "measure": measure, **where})
        return {seeds: self.measurements.of(run, quantity) for seeds, run in self.of(arm).items()}

    def mean(self, arm: str, measure: str, **where: Any) -> float:
        """Its mean over replicates."""
        return float(np.mean(list(self.values(arm, measure, **where).values())))

    def curve(self, arm: str, metric: str) -> pd.DataFrame:
        """A metric of training over its steps: step, n, value, low, high over replicates; to where the first run ends.

        Only steps at which every run has it: a metric that some lack, as of wrong labels where there are none, would
        else turn because a run dropped out.
        """
        columns = [self.measurements.metric(run["run"], metric) for run in self.of(arm).values()]
        steps = sorted(set.intersection(*(set(column) for column in columns)))
        rows = [[step, *estimated([column[step] for column in columns])] for step in steps]
        return pd.DataFrame(rows, columns=["step", "n", "value", "low", "high"])

    def table(self, rows: Sequence[tuple[str, str, Mapping[str, Any]]]) -> pd.DataFrame:
        """A row per (arm, measure, where): arm, measure, task, split, n, value, low, high (NaN of one run)."""
        out = []
        for arm, measure, where in rows:
            task = where.get("task", self.config(arm).task)
            found = estimated(list(self.values(arm, measure, **where).values()))
            out.append([arm, measure, task, where.get("split", "train"), *found])
        return pd.DataFrame(out, columns=["arm", "measure", "task", "split", "n", "value", "low", "high"])

    def sidecar(self, arms: Sequence[str]) -> dict[str, Any]:
        """Of every arm its cell, its runs with their seeds, and the commits that made them."""
        out = {}
        for arm in arms:
            runs = list(self.of(arm).values())
            out[arm] = {
                "cell": self.config(arm).cell_hash(),
                "runs": [run["run"] for run in runs],
                "commits": sorted({str(run["commit"]) for run in runs}),
                "weights": sorted({str(run["weights"]) for run in runs}),
            }
        return out


Draw = Callable[[Runs], tuple[Figure | str, pd.DataFrame]]


def write(name: str, arms: Sequence[str], draw: Draw, runs: Runs, out: Path, optional: bool = False) -> list[Path]:
    """Draw a figure, or make a table, and write its files; returns their paths. Raises Missing.

    optional: the script says itself what it lacks, so that arms may be missing.
    """
    if optional:
        arms = [arm for arm in arms if runs.has(arm)]
    runs.require(arms)
    drawn, table = draw(runs)
    if isinstance(drawn, str):
        out.mkdir(parents=True, exist_ok=True)
        paths = [out / f"{name}.md", out / f"{name}.csv"]
        paths[0].write_text(drawn)
        table.to_csv(paths[1], index=False, float_format="%.6g", lineterminator="\n")
    else:
        paths = save(drawn, table, out, name)
    paths.append(out / f"{name}.json")
    paths[-1].write_text(
        json.dumps({"script": f"paper_figures/{name}.py", "arms": runs.sidecar(arms)}, indent=1) + "\n"
    )
    return paths


def script(name: str, arms: Sequence[str], draw: Draw, optional: bool = False) -> None:
    """The command line of a figure's script."""

    def main(
        records: Annotated[Path, typer.Option(help="folder of the study's records")] = RECORDS,
        out: Annotated[Path, typer.Option(help="where its files go")] = FOLDER,
    ) -> None:
        try:
            paths = write(name, arms, draw, Runs(load(records, frozen=True), read_arms()), out, optional)
        except Missing as missing:
            raise UserError(f"{records}: {missing}") from missing
        for path in paths:
            print(f"written: {path}")

    with in_one_line(name):
        typer.run(main)
