"""One whole TTRL step: the project's trainer beside stock TRL with a majority-vote reward; where the seconds go.

    python -m bench.step [--repeats 5]

mini-s, the 30 questions of mini-30, N = 64 votes. Stock TRL (bench/stock_trl.py) once trains on all 64 completions of a
question, once samples and votes on 64 and trains on 32, as the project does. Its microbatch and precision are tuned
first, in the same run, on a third of the questions; see `tuned`.
"""

from __future__ import annotations

import json
import statistics
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from bench.harness import RESULTS, Measurement, measure, spread, table, write
from bench.stock_trl import Stock
from bench.ttrl_step import Steps
from bench.worker import Worker, python
from ttrl_repro.progress import Progress

OURS, ALL, MASKED = "TTRL trainer", "stock TRL, all 64", "stock TRL, 32 of 64"
TRAINED = 32
MICROBATCHES = (80, 160, 320)
TUNED_ON = 10  # questions
PHASES = ("sampling", "voting", "forward", "backward", "optimizer", "record", "measuring")
WORK = {"sampling": ("sampling",), "training": ("forward", "backward")}  # kinds of positions -> their phases


def main(
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    tune: Annotated[bool, typer.Option(help="search stock TRL's best settings first")] = True,
    out: Annotated[Path, typer.Option(help="folder of the results")] = RESULTS,
) -> None:
    """Measure, print and write the steps."""
    with Progress() as progress:
        base = Stock()
        tried: dict[str, float] = {}
        if tune:
            base, tried = tuned(base, progress)
        with ExitStack() as stack:
            contestants = {
                OURS: stack.enter_context(Worker(Steps().command())),
                ALL: stack.enter_context(worker(base)),
                MASKED: stack.enter_context(worker(replace(base, trained=TRAINED))),
            }
            measured = measure(contestants, repeats, progress, "TTRL steps")
    lines = [
        f"{base.model}, {base.task}, {base.questions} questions x {base.votes} samples; seconds a step",
        *table(
            ["", "seconds", f"{OURS}: times faster"],
            [
                [name, spread(measured.seconds(name)), "" if name == OURS else str(measured.faster(OURS, name))]
                for name in contestants
            ],
        ),
        f"stock TRL with microbatch {base.microbatch}, {'bf16 autocast' if base.bf16 else 'fp32'}"
        + (f", the best of: {', '.join(f'{name} {s:.2f} s' for name, s in tried.items())}" if tried else ""),
        "",
        "where the seconds of a step go",
        *profile(measured),
        "",
        "why: the work, and the time for each piece of it",
        *reasons(measured),
    ]
    data = {
        "stock": asdict(base),
        "tuning_seconds": tried,
        "runs": measured.to_json(),
        "times faster": {name: vars(measured.faster(OURS, name)) for name in (ALL, MASKED)},
    }
    write("step", lines, data, repeats, out)


def worker(stock: Stock) -> Worker:
    """Stock TRL with these settings."""
    return Worker(python("bench.stock_trl", json.dumps(asdict(stock))))


def tuned(base: Stock, progress: Progress) -> tuple[Stock, dict[str, float]]:
    """The fastest settings, and the seconds of a step over TUNED_ON questions with each that was tried."""
    progress.start("tuning stock TRL", len(MICROBATCHES) + 1, unit="setting")
    tried: dict[str, float] = {}
    settings: dict[str, Stock] = {}

    def attempt(stock: Stock) -> None:
        name = f"{stock.microbatch}{' bf16' if stock.bf16 else ''}"
        with Worker(python("bench.stock_trl", json.dumps(asdict(shortened(stock))))) as process:
            tried[name] = min(process(turn).seconds for turn in range(-1, 1))
        settings[name] = stock
        progress.advance(note=f"{name}: {tried[name]:.2f} s")

    def fastest() -> Stock:
        return settings[min(tried, key=tried.__getitem__)]

    for microbatch in MICROBATCHES:
        attempt(replace(base, microbatch=microbatch))
    attempt(replace(fastest(), bf16=True))
    progress.finish()
    return fastest(), tried


def shortened(stock: Stock) -> Stock:
    """The same on TUNED_ON questions."""
    return replace(stock, questions=TUNED_ON, generated=TUNED_ON * stock.votes)


def of_phase(measured: Measurement, name: str, phases: tuple[str, ...]) -> float:
    """Median seconds a step in these phases together."""
    return statistics.median(sum(run.details["phases"].get(p, 0.0) for p in phases) for run in measured.runs[name])


def rest(measured: Measurement, name: str) -> float:
    """Median seconds a step outside of all phases."""
    return statistics.median(run.seconds - sum(run.details["phases"].values()) for run in measured.runs[name])


def profile(measured: Measurement) -> list[str]:
    """Seconds by phase, for each contestant."""
    rows = [[phase, *(f"{of_phase(measured, name, (phase,)):.3f}" for name in measured.runs)] for phase in PHASES]
    rows.append(["rest", *(f"{rest(measured, name):.3f}" for name in measured.runs)])
    rows.append(["step", *(f"{statistics.median(measured.seconds(name)):.3f}" for name in measured.runs)])
    return table(["", *measured.runs], rows)


def reasons(measured: Measurement) -> list[str]:
    """Positions that a model was run on, and microseconds for each: a factor is the product of the two ratios."""
    rows = []
    for kind, phases in WORK.items():
        positions = {
            name: statistics.median(run.details["positions"][kind] for run in measured.runs[name])
            for name in measured.runs
        }
        each = {name: of_phase(measured, name, phases) / positions[name] * 1e6 for name in measured.runs}
        rows.append([f"{kind}: positions", *(f"{positions[name]:,.0f}" for name in measured.runs)])
        rows.append([f"{kind}: us a position", *(f"{each[name]:.1f}" for name in measured.runs)])
        rows.append(
            [
                f"{kind}: times ours",
                *(
                    f"{positions[name] / positions[OURS]:.2f} x {each[name] / each[OURS]:.2f} = "
                    f"{positions[name] / positions[OURS] * each[name] / each[OURS]:.1f}"
                    for name in measured.runs
                ),
            ]
        )
    return table(["", *measured.runs], rows)


if __name__ == "__main__":
    typer.run(main)
