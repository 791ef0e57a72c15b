"""How a TTRL step grows: with votes, questions, length and parameters; and whether memory grows with steps.

    python -m bench.growth [--repeats 5]

Steps of the real trainer (bench/ttrl_step.py) on generated questions of four terms, with adaptive voting and the
skipping of rows without signal off, so that the work does not depend on the votes. Length and parameters are varied
with completions that never end by themselves; parameters with random weights. The slope is that of log seconds over
log size: 1 is linear.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench.harness import RESULTS, Measurement, log_slope, measure, spread, table, write
from bench.ttrl_step import Steps
from bench.worker import Worker
from ttrl_repro.miniature.expressions import Operators, draw_expression, held_out
from ttrl_repro.miniature.recipes import Architecture, load_recipe
from ttrl_repro.progress import Progress
from ttrl_repro.seeds import generator

MODEL = "mini-s"
VOTES = (32, 64, 128, 256)  # a step samples all, and trains half of them
QUESTIONS = (16, 32, 64, 128)
LENGTHS = (16, 32, 64, 128)
USUAL, FEW = 30, 10  # questions where votes are varied; where length, parameters and steps are
LENGTH = 48  # tokens, where parameters are varied
MINI_M = Architecture(hidden_size=256, layers=4, heads=8, kv_heads=4, intermediate_size=896)
MEMORY_MODEL, MEMORY_STEPS, MEMORY_FROM = "mini-xs", 200, 50
TERMS = 4


def questions(count: int, folder: Path) -> str:
    """A task file of so many different questions, all with TERMS terms; returns its path."""
    rng = generator("bench", "questions", count)
    problems: dict[str, int] = {}
    while len(problems) < count:
        expression = draw_expression(rng, TERMS, Operators())
        if held_out(expression.chain):
            problems[f"{expression}="] = expression.value()
    path = folder / f"{count}-questions.jsonl"
    path.write_text("".join(json.dumps({"problem": p, "answer": str(a)}) + "\n" for p, a in problems.items()))
    return str(path)


def axes(folder: Path) -> dict[str, dict[int, Steps]]:
    """What is varied -> size -> the steps to time."""

    def steps(n_questions: int, *overrides: str, **fields: Any) -> Steps:
        # The experiment's own fresh set and further tasks belong to its task; a file has none.
        task = f"task={questions(n_questions, folder)}"
        return Steps((f"model={MODEL}", task, "evaluate.tasks=[]", *overrides), skip=False, **fields)

    shapes = {name: load_recipe(name).architecture for name in ("mini-xs", "mini-s")} | {"mini-m": MINI_M}
    length = f"rollout.max_new_tokens={LENGTH}"
    return {
        "votes": {n: steps(USUAL, f"rollout.votes={n}", f"rollout.trained={n // 2}") for n in VOTES},
        "questions": {n: steps(n) for n in QUESTIONS},
        "length": {n: steps(FEW, f"rollout.max_new_tokens={n}", endless=True) for n in LENGTHS},
        "parameters": {
            shape.parameters(): steps(FEW, length, endless=True, architecture=shape.model_dump())
            for shape in shapes.values()
        },
    }


def grown(measured: Measurement, phase: str | None) -> list[list[float]]:
    """Seconds by size and repeat: of whole steps, or of one phase."""
    if phase is None:
        return [measured.seconds(name) for name in measured.runs]
    return [[run.details["phases"][phase] for run in runs] for runs in measured.runs.values()]


def memory(progress: Progress, folder: Path) -> tuple[list[int], float]:
    """Resident bytes after each of MEMORY_STEPS steps, and their slope from MEMORY_FROM on in MiB per 100 steps."""
    few = (f"task={questions(FEW, folder)}", "evaluate.tasks=[]", "rollout.votes=16", "rollout.trained=8")
    steps = Steps((f"model={MEMORY_MODEL}", *few))
    resident: list[int] = []
    progress.start(f"memory over {MEMORY_STEPS} steps", MEMORY_STEPS, unit="step")
    with Worker(steps.command()) as worker:
        for step in range(MEMORY_STEPS):
            resident.append(worker(step).details["resident_bytes"])
            progress.advance()
    progress.finish()
    return resident, memory_slope(resident[MEMORY_FROM:])


def memory_slope(resident: list[int]) -> float:
    """Least-squares growth in MiB per 100 steps."""
    return float(np.polyfit(np.arange(len(resident)), np.array(resident) / 2**20, 1)[0] * 100)


def lines_of(axis: str, sizes: list[int], measured: Measurement, data: dict[str, Any]) -> list[str]:
    """The table of one axis, and its slopes into `data`."""
    phases: Mapping[str, str | None] = {"step": None, "sampling": "sampling"}
    seconds = {name: grown(measured, phase) for name, phase in phases.items()}
    slopes = {name: log_slope(sizes, found) for name, found in seconds.items()}
    data[axis] = {"runs": measured.to_json(), "slopes": {name: vars(slope) for name, slope in slopes.items()}}
    rows = [[f"{size:,}", *(spread(seconds[name][i], 3) for name in phases)] for i, size in enumerate(sizes)]
    return table([axis, *(f"{name}, seconds" for name in phases)], [*rows, ["slope", *map(str, slopes.values())]])


def main(
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path, typer.Option(help="folder of the results")] = RESULTS,
) -> None:
    """Measure, print and write."""
    lines = [
        f"{MODEL}, {USUAL} questions, x 64 samples where not varied, half of the samples trained; length and "
        f"parameters: {FEW} questions, completions that never end ({LENGTH} tokens for parameters)"
    ]
    data: dict[str, Any] = {}
    with Progress() as progress, tempfile.TemporaryDirectory() as folder:
        for axis, sizes in axes(Path(folder)).items():
            with ExitStack() as stack:
                contestants = {str(size): stack.enter_context(Worker(steps.command())) for size, steps in sizes.items()}
                measured = measure(contestants, repeats, progress, f"growth with {axis}")
            lines += ["", *lines_of(axis, list(sizes), measured, data)]
        resident, slope = memory(progress, Path(folder))
    lines += [
        "",
        f"memory of {MEMORY_MODEL}, {FEW} questions x 16 samples: {resident[0] / 2**20:,.0f} MiB after step 1, "
        f"{resident[-1] / 2**20:,.0f} MiB after step {MEMORY_STEPS}; "
        f"from step {MEMORY_FROM} on {slope:+.2f} MiB per 100 steps",
    ]
    write("growth", lines, {**data, "resident_bytes": resident, "mib_per_100_steps": slope}, repeats, out)


if __name__ == "__main__":
    typer.run(main)
