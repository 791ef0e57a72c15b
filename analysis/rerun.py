"""Runs again a few committed runs, drawn at random, and compares them with their records.

    python -m analysis.rerun [RECORDS] [--cells 3] [--seed 0] [--out FOLDER]

Drawn among those on shipped bases (others have to be pretrained first, which rounds otherwise elsewhere). On the
processor, versions and thread count of the record a run has to be the same bit for bit. Elsewhere rounding differs,
which training amplifies: then its first step's labels, which no update has touched, must agree on most questions, and
avg@k must be within TOLERANCE of the record's. Exit code 1 if one is not.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import typer

from analysis.load import load, rows_of
from analysis.measures import Measurements, Quantity
from ttrl_repro import laboratory
from ttrl_repro.errors import UserError, in_one_line
from ttrl_repro.records import Record

RECORDS = Path(__file__).resolve().parent.parent / "paper_figures" / "data" / "study"
MACHINE = ("processor", "packages", "platform")  # of the manifest's environment
TOLERANCE = 0.1  # of avg@k: on 30 questions three; other rounding is another run with the same seeds
AGREEMENT = 0.9  # of the labels of step 1, which no update has touched


@dataclass(frozen=True)
class Compared:
    """A rerun beside its record. bitwise: metrics.jsonl is the same. alike: the machine is, so that it has to be.
    labels: share of step 1's labels that agree."""

    run: str
    bitwise: bool
    alike: bool
    labels: float
    avg: float
    recorded: float

    @property
    def fine(self) -> bool:
        """Whether it is the record's run."""
        near = self.labels >= AGREEMENT and abs(self.avg - self.recorded) <= TOLERANCE
        return self.bitwise or (near and not self.alike)

    def line(self) -> str:
        """As text."""
        how = "bit for bit" if self.bitwise else f"{self.labels:.0%} of the first labels"
        how += "" if self.bitwise or not self.alike else " (on the record's kind of machine)"
        return (
            f"{self.run}: {how}; avg {self.avg:.4f}, record {self.recorded:.4f}: {'same' if self.fine else 'NOT same'}"
        )


def candidates(records: Path) -> list[str]:
    """The finished records on shipped bases, at any depth, by their path. Raises UserError if there is none."""
    found, shipped = [], laboratory.read().weights
    for path in sorted(path.parent for path in records.rglob("manifest.json")):
        manifest = Record.reopen(path).manifest
        if (
            manifest["state"] == "finished"
            and f"{manifest['model']['name']}-seed{manifest['seeds']['base']}" in shipped
        ):
            found.append(path.relative_to(records).as_posix())
    if not found:
        raise UserError(f"{records}: no finished record on a shipped base")
    return found


def rerun(record: Path, out: Path) -> None:
    """Run a record's config again into `out`, with its number of threads. Raises UserError if the run fails."""
    threads = str(Record.reopen(record).manifest.get("threads", 1))
    argv = [sys.executable, "-m", "ttrl_repro.cli", "run", str(record / "config.yaml"), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "WANDB_MODE": "disabled"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise UserError(f"{record}: the rerun failed: {said[-1] if said else f'exit code {done.returncode}'}")


def compare(run: str, record: Path, again: Path) -> Compared:
    """A rerun beside its record."""
    first = [_first_labels(path) for path in (record, again)]
    shared = first[0].keys() & first[1].keys()
    same = sum(first[0][question] == first[1][question] for question in shared) / max(len(first[0]), 1)
    metrics = [(path / "metrics.jsonl").read_bytes() for path in (record, again)]
    machines = [Record.reopen(path).manifest for path in (record, again)]
    alike = all(machines[0]["environment"].get(name) == machines[1]["environment"].get(name) for name in MACHINE)
    return Compared(run, metrics[0] == metrics[1], alike, same, _avg(again), _avg(record))


def _first_labels(record: Path) -> dict[str, str | None]:
    votes = pq.read_table(record / "votes.parquet", columns=["step", "question_id", "label_key"]).to_pylist()
    return {row["question_id"]: row["label_key"] for row in votes if row["step"] == 1}


def _avg(record: Path) -> float:
    study = load(record)
    (run,) = rows_of(study.runs)
    return Measurements(study).of(run, Quantity(arm="x", measure="avg"))


def rerun_some(records: Path, cells: int, seed: int, out: Path) -> Sequence[Compared]:
    """Draw records, run them again into `out`, and compare; a line each as it is done."""
    found = []
    names = candidates(records)
    for run in random.Random(seed).sample(names, min(cells, len(names))):
        again = out / run
        rerun(records / run, again)
        found.append(compare(run, records / run, again))
        print(found[-1].line(), flush=True)
    return found


def main(
    records: Annotated[Path, typer.Argument(help="folder of records")] = RECORDS,
    cells: Annotated[int, typer.Option(min=1)] = 3,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="where the reruns go (default: nowhere that stays)")] = None,
) -> None:
    """Run some again and compare."""
    if out is not None:
        found = rerun_some(records, cells, seed, out)
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = rerun_some(records, cells, seed, Path(folder))
    raise SystemExit(not all(one.fine for one in found))


if __name__ == "__main__":
    with in_one_line("rerun"):
        typer.run(main)
