"""A sweep under fire: agents and runs killed, one frozen beyond its lease, all of them at once, the server restarted.

    python -m bench.stress [--cells 60] [--agents 4] [--kills 30] [--postgresql] [--seed 0]

An undisturbed sweep of the same grid goes first. At the end every cell must be finished, exactly once, with metrics
that are bitwise those of the undisturbed sweep; no record half-written, nothing left of other claims, nothing RUNNING
in the database or in the Optuna study. What is not so is an error, and exit code 1. Runs are tiny, one thread each.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import optuna
import pyarrow.parquet as pq
import typer
import yaml
from sqlalchemy.exc import OperationalError

from tests.postgres import Server
from ttrl_repro.records import Record, read_eval, read_jsonl
from ttrl_repro.sweeps.files import read_sweep
from ttrl_repro.sweeps.search import export_grid
from ttrl_repro.sweeps.store import ENDED, FINISHED, RUNNING, WAITING, CellRow, Store, sqlite_url

ROOT = Path(__file__).resolve().parent.parent
NAME = "stress"
STEPS = 5
LEASE = 5.0  # seconds
SILENCE = 120.0  # seconds after which a run is taken to hang; none takes half as long
PATIENCE = 600.0  # seconds without an ended cell and without a kill, after which the sweep is taken to hang
SPREAD = (
    0.8  # share of the cells over whose ends the kills are spread: early ones hit runs that have nothing to lose yet
)
EXPERIMENT = {
    "name": "tiny",
    "task": "mini-30",
    "model": "mini-xs",
    "rollout": {"votes": 16, "trained": 8, "max_new_tokens": 48},
    "train": {"steps": STEPS, "questions_per_step": 10, "learning_rate": 1e-3, "checkpoint_every": 1},
    "evaluate": {"every": STEPS, "k": 2, "votes": 2, "base_temperatures": [0.6], "fresh": False},
}


def write_sweep(folder: Path, cells: int) -> Path:
    """A grid of `cells` tiny runs, two temperatures or one, and as many RL seeds; returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "tiny.yaml"
    program.write_text(yaml.safe_dump(EXPERIMENT))
    temperatures = [0.8, 1.0] if cells % 2 == 0 else [1.0]
    content = {
        "name": NAME,
        "program": str(program),
        "method": "grid",
        "metric": {"name": "majority_ratio", "goal": "maximize"},
        "command": ["${env}", "${interpreter}", "-m", "ttrl_repro.cli", "run", "${program}", "${args_no_hyphens}"],
        "parameters": {
            "rollout.temperature": {"values": temperatures},
            "seeds.rl": {"values": list(range(cells // len(temperatures)))},
        },
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@dataclass
class Fleet:
    """Agents of one sweep as processes of this machine, kept at a number."""

    file: Path
    folder: Path
    storage: str | None
    size: int
    agents: list[subprocess.Popen[bytes]] = field(default_factory=list)
    started: int = 0

    def fill(self) -> None:
        """Start agents in place of those that are gone."""
        self.agents = [agent for agent in self.agents if agent.poll() is None]
        while len(self.agents) < self.size:
            log = self.folder / "agents" / f"{self.started}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            argv = [sys.executable, "-m", "ttrl_repro.cli", "sweep", "agent", str(self.file)]
            argv += ["--folder", str(self.folder), f"--lease={LEASE}", f"--silence={SILENCE}", "--retries=100"]
            argv += ["--failures=100", *([f"--storage={self.storage}"] if self.storage else [])]
            with log.open("wb") as out:
                agent = subprocess.Popen(
                    argv, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=_environment(), start_new_session=True
                )
            self.agents.append(agent)
            self.started += 1

    def said(self) -> str:
        """What all agents printed."""
        return "".join(path.read_text() for path in sorted((self.folder / "agents").glob("*.log")))


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT)}


def children_of(pid: int) -> list[int]:
    """The processes that a process started."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def undisturbed(file: Path, folder: Path, agents: int) -> None:
    """Run the sweep in peace."""
    argv = [sys.executable, "-m", "ttrl_repro.cli", "sweep", "run", str(file), f"--agents={agents}"]
    subprocess.run(
        [*argv, "--folder", str(folder)], check=True, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL
    )


@dataclass
class Disturbance:
    """What is done to a fleet, and when: one thing every so often, until all was done."""

    fleet: Fleet
    generator: random.Random
    done: Counter[str] = field(default_factory=Counter)

    def kill_one(self) -> None:
        """SIGKILL an agent or the run of one, whichever comes up."""
        victims = [agent.pid for agent in self.fleet.agents if agent.poll() is None]
        runs = [child for pid in victims for child in children_of(pid)]
        victim = self.generator.choice([*victims, *runs])
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            self.done["agents killed" if victim in victims else "runs killed"] += 1

    def kill_all(self) -> None:
        """As when the machine goes down."""
        for agent in self.fleet.agents:
            agent.kill()
        for agent in self.fleet.agents:
            agent.wait()
        self.done["full stops"] += 1

    def freeze_one(self, store: Store) -> None:
        """SIGSTOP an agent that runs a cell, until another one has that cell; then let it go on."""
        mine = {f"{socket.gethostname()}:{agent.pid}": agent for agent in self.fleet.agents if agent.poll() is None}
        busy = [row for row in store.cells() if row.state == RUNNING and row.owner in mine]
        if not busy:
            return
        row = self.generator.choice(busy)
        agent = mine[str(row.owner)]
        agent.send_signal(signal.SIGSTOP)
        until = time.monotonic() + 120.0
        with contextlib.suppress(OperationalError):  # frozen inside a transaction, it holds the lock of all SQLite
            while store.cells([row.cell])[0].token == row.token and time.monotonic() < until:
                self.fleet.fill()  # somebody must be there to take it over
                time.sleep(0.5)
        agent.send_signal(signal.SIGCONT)
        self.done["agents frozen past their lease"] += store.cells([row.cell])[0].token > row.token


def disturb(fleet: Fleet, kills: int, seed: int, server: Server | None, say: Callable[[str], None]) -> Counter[str]:
    """Run the sweep to its end under fire; what was done. Raises RuntimeError if it does not end."""
    disturbance = Disturbance(fleet, random.Random(seed))
    generator, done = disturbance.generator, disturbance.done
    store, waited, moved = None, time.monotonic(), (0, 0)
    while True:
        fleet.fill()
        time.sleep(generator.uniform(1.0, 5.0))
        if store is None:  # the first agent makes the tables and enqueues the cells
            store = _store_with_cells(fleet)
            continue
        counts = store.counts()
        killed = done["agents killed"] + done["runs killed"]
        ended, cells = sum(counts[state] for state in ENDED), sum(counts.values())
        if killed < kills and killed <= kills * (ended + 1) / (SPREAD * cells):
            disturbance.kill_one()
        if killed >= kills // 3 and not done["full stops"]:
            disturbance.kill_all()
        if killed >= kills // 2 and not done["agents frozen past their lease"]:
            disturbance.freeze_one(store)
        if server is not None and killed >= 2 * kills // 3 and not done["server restarts"]:
            server.stop()
            time.sleep(3.0)
            server.start()
            done["server restarts"] += 1
        if counts[WAITING] + counts[RUNNING] == 0:
            break
        if (ended, killed) != moved:
            waited, moved = time.monotonic(), (ended, killed)
        if time.monotonic() - waited > PATIENCE:
            raise RuntimeError(f"{PATIENCE:g} s without a kill or an ended cell: {_stand(fleet, store.cells())}")
        say(f"{counts[FINISHED]} of {cells} cells finished; {dict(done)}")
    for agent in fleet.agents:
        agent.wait()
    store.close()
    return done


def _stand(fleet: Fleet, rows: list[CellRow]) -> str:
    """Cells that have not ended, the processes of the agents, and the last that they and their runs printed."""
    open_cells = [f"{row.cell}: {row.state}, {row}" for row in rows if row.state not in ENDED]
    processes = [f"agent {agent.pid}, runs {children_of(agent.pid)}" for agent in fleet.agents]
    logs = sorted((fleet.folder / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)[-4:]
    printed = [f"{path.name}: {path.read_text(errors='replace')[-2000:]}" for path in logs]
    return "\n".join([*open_cells, *processes, fleet.said()[-2000:], *printed])


def _store_with_cells(fleet: Fleet) -> Store | None:
    store = Store(fleet.storage or sqlite_url(fleet.folder / "sweep.db"), NAME, patience=1.0)
    return store if store.known() and store.cells() else None


def complaints(fleet: Fleet, peace: Path, rows: list[CellRow], study: optuna.Study) -> list[str]:
    """What is not as it must be, a line each."""
    wrong, said = [], fleet.said()
    died = [line for line in said.splitlines() if re.match(r"Traceback|ttrl: ", line)]
    wrong += [f"a run hung: {line}" for line in said.splitlines() if ": hung: " in line]
    # One that starts while the server is away says so and ends: nothing is taken for working that cannot be reached.
    wrong += [f"an agent died of its own: {line}" for line in died if not (fleet.storage and "cannot be used" in line)]
    for row in rows:
        if row.state != FINISHED:
            wrong.append(f"{row.cell}: {row.state}: {row.error}")
        record, reference = (folder / "runs" / row.cell for folder in (fleet.folder, peace))
        if not (record / "manifest.json").is_file():
            wrong.append(f"{row.cell}: no record")
            continue
        wrong += [f"{row.cell}: {what}" for what in record_complaints(record, reference)]
        times = len(re.findall(rf"^{re.escape(row.cell)}, claim \d+: finished$", said, re.MULTILINE))
        if times > 1:  # none, if its agent was killed between the database and the print
            wrong.append(f"{row.cell}: finished {times} times")
    names = {path.name for path in (fleet.folder / "runs").iterdir()}
    wrong += [f"{name}: is no cell" for name in names - {row.cell for row in rows}]
    wrong += [f"{path}: left over" for path in (fleet.folder / "attempts").glob("*/*")]
    trials = study.get_trials(deepcopy=False)
    wrong += [f"trial {trial.number}: {trial.state.name}" for trial in trials if trial.state.name != "COMPLETE"]
    cells = Counter(trial.user_attrs["cell"] for trial in trials)
    wrong += [f"{cell}: {n} trials" for cell, n in cells.items() if n != 1]
    wrong += [f"{row.cell}: not in the study" for row in rows if row.cell not in cells]
    return wrong


def record_complaints(record: Path, reference: Path) -> list[str]:
    """How a record differs from the undisturbed one, or is not whole."""
    wrong = []
    manifest = Record.reopen(record).manifest
    if (manifest["state"], manifest["steps_done"]) != ("finished", STEPS):
        wrong.append(f"its record is {manifest['state']} after {manifest['steps_done']} steps")
    for name in ("metrics.jsonl", "predictions.jsonl", "config.yaml"):
        if (record / name).read_bytes() != (reference / name).read_bytes():
            wrong.append(f"{name} differs from the undisturbed run's")
    if [row["step"] for row in read_jsonl(record / "metrics.jsonl")] != list(range(1, STEPS + 1)):
        wrong.append("metrics.jsonl has not one line per step")
    for name in ("votes.parquet", *(f"samples/step-{step:06d}.parquet" for step in range(1, STEPS + 1))):
        if not pq.read_table(record / name).equals(pq.read_table(reference / name)):
            wrong.append(f"{name} differs from the undisturbed run's")
    if read_eval(record) != read_eval(reference):
        wrong.append("its evaluations differ from the undisturbed run's")
    wrong += [f"{path.name} is half-written" for path in record.rglob("*.partial")]
    return wrong


def stress(
    folder: Path, cells: int, agents: int, kills: int, seed: int, server: Server | None, say: Callable[[str], None]
) -> tuple[Counter[str], list[str], float]:
    """Both sweeps in `folder`; what was done to the second, what is wrong with it, and its seconds."""
    file = write_sweep(folder, cells)
    undisturbed(file, folder / "peace", agents)
    say("undisturbed sweep finished")
    began = time.monotonic()
    storage = server.url if server is not None else None
    fleet = Fleet(file, folder / "fire", storage, agents)
    (folder / "fire").mkdir()
    done = disturb(fleet, kills, seed, server, say)
    seconds = time.monotonic() - began
    store = Store(storage or sqlite_url(fleet.folder / "sweep.db"), NAME)
    rows = store.cells()
    export_grid(read_sweep(file), rows, sqlite_url(fleet.folder / "study.db"))
    study = optuna.load_study(study_name=NAME, storage=sqlite_url(fleet.folder / "study.db"))
    done["claims taken over"] = sum(row.takeovers for row in rows)
    done["claims lost"] = fleet.said().count(": lost: ")
    resumed = [Record.reopen(path) for path in (fleet.folder / "runs").iterdir()]
    done["records resumed"] = sum("resumed" in record.manifest for record in resumed)
    store.close()
    return done, complaints(fleet, folder / "peace", rows, study), seconds


def main(
    cells: Annotated[int, typer.Option(min=2)] = 60,
    agents: Annotated[int, typer.Option(min=2)] = 4,
    kills: Annotated[int, typer.Option(min=1)] = 30,
    seed: int = 0,
    postgresql: Annotated[bool, typer.Option("--postgresql", help="on a server that restarts in the middle")] = False,
    folder: Annotated[Path, typer.Option(help="emptied first")] = Path("runs/stress"),
) -> None:
    """Say what was done, and what is wrong."""
    if folder.exists():
        shutil.rmtree(folder)
    server = None
    if postgresql:
        server = Server()
        server.start()
    try:
        done, wrong, seconds = stress(
            folder.resolve(), cells, agents, kills, seed, server, lambda line: print(line, flush=True)
        )
    finally:
        if server is not None:
            server.stop()
            server.remove()
    print(f"{cells} cells, {agents} agents, {'PostgreSQL' if postgresql else 'SQLite'}, {seconds:.0f} s under fire")
    print("done to it: " + ", ".join(f"{n} {what}" for what, n in sorted(done.items())))
    print("\n".join(wrong) or "every cell finished exactly once, bitwise as undisturbed; nothing left over")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    typer.run(main)
