"""A unit run of the study as its user starts it: `ttrl run experiments/demo.yaml` in a fresh process.

    python -m bench.unit_run [--repeats 3]

30 questions, N = 64, G = 32, 40 steps, with the evaluations, checkpoints, W&B mirror and table that the experiment has;
for mini-s and for mini-xs. Where the seconds go is told by the same process (bench/timed_ttrl.py).
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from bench.harness import RESULTS, ROOT, Contestant, Run, measure, spread, table, write
from bench.ttrl_step import EXPERIMENT
from bench.worker import python
from ttrl_repro.progress import Progress
from ttrl_repro.records import Record

MODELS = ("mini-s", "mini-xs")
PHASES = (
    "start-up",
    "loading",
    "evaluation",
    "sampling",
    "voting",
    "training",
    "record",
    "W&B",
    "checkpoints",
    "table",
    "rest",
)


def unit_run(model: str, overrides: list[str]) -> Contestant:
    """A whole run of the experiment with this model."""

    def work(_: int) -> Run:
        with tempfile.TemporaryDirectory() as folder:
            phases, record = Path(folder) / "phases.json", Path(folder) / "record"
            command = ["run", str(EXPERIMENT), f"model={model}", *overrides, "--out", str(record)]
            started = time.perf_counter()
            timed = python("bench.timed_ttrl", str(time.time()), str(phases), *command)
            done = subprocess.run(timed, cwd=ROOT, capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - started
            if done.returncode:
                raise RuntimeError(f"ttrl {' '.join(command)}: ended with {done.returncode}:\n{done.stderr[-3000:]}")
            taken: dict[str, float] = json.loads(phases.read_text())
            manifest = Record.reopen(record).manifest
        taken["rest"] = seconds - sum(taken.values())
        return Run(1, seconds, {"phases": taken, "steps": manifest["steps_done"], "cost": manifest["cost"]})

    return work


def main(
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as `ttrl run` takes them")] = None,
    out: Annotated[Path, typer.Option(help="folder of the results")] = RESULTS,
) -> None:
    """Measure, print and write the runs."""
    with Progress() as progress:
        # Every run is a fresh process, as it is for its user: there is nothing to warm up but the disk's cache.
        measured = measure(
            {model: unit_run(model, overrides or []) for model in MODELS}, repeats, progress, "runs", warm_up=False
        )
    columns = {
        model: [
            spread(measured.seconds(model), 1),
            *(spread([run.details["phases"].get(phase, 0.0) for run in runs], 1) for phase in PHASES),
        ]
        for model, runs in measured.runs.items()
    }
    steps = measured.runs[MODELS[0]][0].details["steps"]
    lines = [
        f"seconds of a run of experiments/{EXPERIMENT.name}: {steps} steps",
        *table(
            ["", *MODELS],
            [[name, *(columns[m][i] for m in MODELS)] for i, name in enumerate(("whole run", *PHASES))],
        ),
    ]
    write("unit_run", lines, {"runs": measured.to_json()}, repeats, out)


if __name__ == "__main__":
    typer.run(main)
