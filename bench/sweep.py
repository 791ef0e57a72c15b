"""What the sweep layer costs: cells by an agent beside the same runs by hand, and `status` of a grid of 10,000 cells.

    python -m bench.sweep [--repeats 3] [--out FOLDER]

By turns two runs of mini-xs, each in a process of its own: by `ttrl run` twice, and by one agent that runs both, from
its start to its end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
import yaml

from bench.harness import RESULTS, ROOT, measure, spread, write
from bench.stress import COMMAND
from ttrl_repro.progress import Progress
from ttrl_repro.sweeps.enqueue import enqueue
from ttrl_repro.sweeps.files import read_sweep
from ttrl_repro.sweeps.store import Store, sqlite_url

CELLS = 10_000
RUNS = 2  # a turn
CLAIMS = 100
PROGRAM = "experiments/study.yaml"
BY_HAND, BY_AGENT = "ttrl run", "ttrl sweep agent"


def ttrl(*arguments: object) -> None:
    """Carry out a command of this package, from the project's folder."""
    subprocess.run(
        [sys.executable, "-m", "ttrl_repro.cli", *map(str, arguments)],
        check=True,
        cwd=ROOT,
        env={**os.environ, "WANDB_MODE": "disabled"},
        capture_output=True,
    )


def write_sweep(folder: Path, seeds: int) -> Path:
    """A grid of RL seeds over the study's experiment."""
    parameters = {"seeds.rl": {"values": list(range(seeds))}}
    content = {"name": "bench", "program": PROGRAM, "method": "grid", "command": COMMAND, "parameters": parameters}
    path = folder / f"grid-of-{seeds}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def large_grid(folder: Path, repeats: int) -> tuple[float, list[float], list[float]]:
    """Seconds to enqueue CELLS cells, to claim and finish one, and of `ttrl sweep status`."""
    file, place = write_sweep(folder, CELLS), folder / "large"
    place.mkdir()
    sweep = read_sweep(file)
    store = Store(sqlite_url(place / "sweep.db"), sweep.name)
    began = time.perf_counter()
    enqueue(sweep, store)
    enqueued = time.perf_counter() - began
    claims, status = [], []
    for _ in range(CLAIMS):
        began = time.perf_counter()
        claim = store.claim("bench")
        assert claim is not None
        store.finish(claim, None, 1.0)
        claims.append(time.perf_counter() - began)
    store.close()
    for _ in range(repeats):
        began = time.perf_counter()
        ttrl("sweep", "status", file, "--folder", place)
        status.append(time.perf_counter() - began)
    return enqueued, claims, status


def main(
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    out: Annotated[Path, typer.Option(help="folder of the results")] = RESULTS,
) -> None:
    """Measure, print, and write sweep.txt and sweep.json."""
    os.chdir(ROOT)  # sweep files name their program from here
    with tempfile.TemporaryDirectory(prefix="bench-sweep-") as name:
        folder = Path(name)
        file = write_sweep(folder, RUNS)

        def by_hand(repeat: int) -> float:
            for seed in range(RUNS):
                ttrl("run", PROGRAM, f"seeds.rl={seed}", "--out", folder / f"hand-{repeat}-{seed}")
            return RUNS

        def by_agent(repeat: int) -> float:
            ttrl("sweep", "agent", file, "--folder", folder / f"sweep-{repeat}")
            return RUNS

        with Progress() as progress:
            found = measure({BY_HAND: by_hand, BY_AGENT: by_agent}, repeats, progress, "sweep", warm_up=False)
        enqueued, claims, status = large_grid(folder, repeats)
    ratio = found.faster(BY_HAND, BY_AGENT)
    lines = [
        f"{RUNS} runs of {PROGRAM} (mini-xs, 40 steps) in turn; seconds a run",
        *(f"{name:<18}{spread(found.seconds(name))}" for name in (BY_HAND, BY_AGENT)),
        f"an agent takes {_percent(ratio.value)} % ({_percent(ratio.low)} to {_percent(ratio.high)}) more",
        "",
        f"a grid of {CELLS:,} cells, SQLite; seconds",
        f"to enqueue all         {enqueued:.1f}",
        f"to claim and finish    {spread(claims, 4)}",
        f"ttrl sweep status      {spread(status)}",
    ]
    data = {"runs": found.to_json(), "enqueue": enqueued, "claim_and_finish": claims, "status": status}
    write("sweep", lines, data, repeats, out)


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.2f}"


if __name__ == "__main__":
    typer.run(main)
