"""All measurements, each in a process of its own: `python -m bench [--repeats 5] [NAME ...]`."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Annotated

import typer

from bench.harness import RESULTS, ROOT
from bench.worker import python

# The short ones first; whole runs, which need no repeats of their steps, are repeated less often.
MEASUREMENTS = (
    "floor",
    "evaluation",
    "pretraining",
    "voting",
    "sampling",
    "step",
    "growth",
    "savings",
    "unit_run",
    "sweep",
)
FEWER = {"unit_run": 3, "sweep": 3}  # repeats at most
ONCE = ("savings",)  # it compares trainings, whose steps are its repeats


def command(name: str, repeats: int, out: Path) -> list[str]:
    """How one measurement is started."""
    times = [] if name in ONCE else ["--repeats", str(min(repeats, FEWER.get(name, repeats)))]
    return python(f"bench.{name}", *times, "--out", str(out))


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"which: {', '.join(MEASUREMENTS)} (default: all)")] = None,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path, typer.Option(help="folder of the results")] = RESULTS,
) -> None:
    """Run them one after the other; the first failure ends it."""
    unknown = set(names or ()) - set(MEASUREMENTS)
    if unknown:
        raise typer.BadParameter(f"unknown {', '.join(sorted(unknown))}; known: {', '.join(MEASUREMENTS)}")
    for name in names or MEASUREMENTS:
        started = time.perf_counter()
        print(f"== {name}", flush=True)
        subprocess.run(command(name, repeats, out.resolve()), cwd=ROOT, check=True)
        print(f"== {name}: {time.perf_counter() - started:.0f} s\n", flush=True)


if __name__ == "__main__":
    typer.run(main)
