"""What every measurement shares: contestants side by side, medians and spreads, ratios, the machine, the files.

Contestants take turns within each repeat, in an order that is reversed from one repeat to the next, so that a
machine that slows down or speeds up meets all of them alike. What a repeat measured belongs together: ratios are
taken within repeats. The interval of a ratio (and of a slope) is the range over the n repeats, which holds the
median of what is measured with probability 1 - 2^(1 - n), whatever its distribution: 94 % for 5 repeats.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ttrl_repro.progress import Progress
from ttrl_repro.records import environment

RESULTS = Path(__file__).resolve().parent / "results"
ROOT = RESULTS.parent.parent


@dataclass(frozen=True)
class Run:
    """One piece of work that was timed: `amount` of it (tokens, steps, ...) in `seconds`."""

    amount: float
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)


# Does repeat number n of its work; returns the amount, or a Run that was timed by the contestant itself.
Contestant = Callable[[int], "float | Run"]


@dataclass(frozen=True)
class Interval:
    """Something of the medians (a ratio, a slope), and the range of the same within repeats."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


class Measurement:
    """Runs of each contestant, in order of the repeats."""

    def __init__(self, runs: Mapping[str, Sequence[Run]]) -> None:
        if len({len(of_one) for of_one in runs.values()}) > 1:
            raise ValueError("every contestant needs the same number of repeats")
        self.runs = {name: list(of_one) for name, of_one in runs.items()}

    def seconds(self, name: str) -> list[float]:
        """Seconds per unit of work, by repeat."""
        return [run.seconds / run.amount for run in self.runs[name]]

    def rates(self, name: str) -> list[float]:
        """Units of work per second, by repeat."""
        return [run.amount / run.seconds for run in self.runs[name]]

    def faster(self, name: str, peer: str) -> Interval:
        """How many times faster `name` is than `peer`."""
        mine, other = self.seconds(name), self.seconds(peer)
        paired = [b / a for a, b in zip(mine, other, strict=True)]
        return Interval(statistics.median(other) / statistics.median(mine), min(paired), max(paired))

    def to_json(self) -> dict[str, Any]:
        """Every run, for the results file."""
        return {
            name: [{"amount": run.amount, "seconds": run.seconds, **run.details} for run in of_one]
            for name, of_one in self.runs.items()
        }


def measure(
    contestants: Mapping[str, Contestant], repeats: int, progress: Progress, title: str, warm_up: bool = True
) -> Measurement:
    """Let the contestants take turns `repeats` times, after a turn that does not count (`warm_up`)."""
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    first = -1 if warm_up else 0
    progress.start(title, (repeats - first) * len(contestants), unit="turn")
    for repeat in range(first, repeats):
        for name in order(list(contestants), repeat):
            run = timed(contestants[name], repeat)
            if repeat >= 0:
                runs[name].append(run)
            progress.advance(note=name)
    progress.finish()
    return Measurement(runs)


def order(names: Sequence[str], repeat: int) -> list[str]:
    """Whose turn it is within a repeat: forwards and backwards by turns."""
    return list(names) if repeat % 2 == 0 else list(reversed(names))


def timed(contestant: Contestant, repeat: int) -> Run:
    """One turn of a contestant."""
    started = time.perf_counter()
    done = contestant(repeat)
    seconds = time.perf_counter() - started
    return done if isinstance(done, Run) else Run(done, seconds)


def log_slope(sizes: Sequence[float], seconds: Sequence[Sequence[float]]) -> Interval:
    """Least-squares slope of log seconds over log size; `seconds` holds the repeats of each size.

    Raises ValueError for fewer than two sizes.
    """
    if len(sizes) < 2:
        raise ValueError("a slope needs two sizes or more")
    x = np.log(np.asarray(sizes, float))
    x = x - x.mean()
    log_SR = np.log(np.asarray(seconds, float))
    of_repeats = (x @ log_SR) / (x @ x)
    through_medians = float(x @ np.log(np.median(np.asarray(seconds, float), axis=1)) / (x @ x))
    return Interval(through_medians, float(of_repeats.min()), float(of_repeats.max()))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and range, as the results show them."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in plain text: the first column left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    ]


def machine() -> dict[str, Any]:
    """What was measured on, and which code."""
    return {
        **environment(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "load_average": os.getloadavg()[0],
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The checkout's commit, with a `+` where the code was changed since; None outside of git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # Results are written here one after the other: they do not change the code.
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results", ":!docs")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def write(name: str, lines: Sequence[str], data: Mapping[str, Any], repeats: int, folder: Path = RESULTS) -> None:
    """Print the lines, and write `name`.txt (the lines) and `name`.json (`data` and the machine) to `folder`."""
    facts = machine()
    packages = facts["packages"]
    counted = f"{repeats} repeats, medians (ranges)" if repeats > 1 else "measured once"
    text = "\n".join(
        [
            *lines,
            "",
            f"{counted}; {facts['processor']}, {facts['threads']} threads, "
            f"{facts['memory_bytes'] / 2**30:.0f} GiB; torch {packages['torch']}, "
            f"transformers {packages['transformers']}, trl {packages['trl']}; commit {facts['commit']}",
        ]
    )
    print(text, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    content = {"repeats": repeats, "machine": facts, **data}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
