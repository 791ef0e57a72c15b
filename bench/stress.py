"""A sweep under fire: agents and runs killed, one frozen beyond its lease, all of them at once, the server restarted.

    python -m bench.stress [--cells 60] [--agents 4] [--kills 30] [--seed 0]

An undisturbed grid; then the same grid under fire, on SQLite and on a PostgreSQL server that restarts in the middle. At
the end every cell must be finished, exactly once, with metrics that are bitwise those of the undisturbed one; no record
half-written, nothing left of other claims. Then a search by Optuna with early stopping: its cells must have ended
exactly once, each as its trial says, with no trial RUNNING. What is not so is an error, and exit code 1; so is a
disturbance that did not come to pass. Every other kill waits for a run in the middle of its training. Runs are tiny,
one thread each.
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
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import optuna
import pyarrow.parquet as pq
import typer
import yaml
from sqlalchemy.exc import OperationalError

from bench.harness import RESULTS, write
from bench.postgres import Server, binaries
from ttrl_repro import checkpoints
from ttrl_repro.errors import UserError, in_one_line
from ttrl_repro.records import Record, read_eval, read_jsonl
from ttrl_repro.sweeps.files import read_sweep
from ttrl_repro.sweeps.search import STATES, export_grid
from ttrl_repro.sweeps.store import ENDED, FINISHED, PRUNED, RUNNING, WAITING, CellRow, Store, sqlite_url

ROOT = Path(__file__).resolve().parent.parent
NAME = "stress"
STEPS = 8
LEASE = 5.0  # seconds
SILENCE = 120.0  # seconds after which a run is taken to hang; none takes half as long
AIM = 30.0  # seconds to wait for a run in the middle of its training
PATIENCE = 600.0  # seconds without an ended cell and without a kill, after which the sweep is taken to hang
SPREAD = 0.8  # share of the cells over whose ends the kills are spread: early on runs have nothing to lose yet
COMMAND = ["${env}", "${interpreter}", "-m", "ttrl_repro.cli", "run", "${program}", "${args_no_hyphens}"]
EXPERIMENT = {
    "name": "tiny",
    "task": "mini-30",
    "model": "mini-xs",
    "rollout": {"votes": 16, "trained": 8, "max_new_tokens": 48},
    "train": {"steps": STEPS, "questions_per_step": 10, "learning_rate": 1e-3, "checkpoint_every": 1},
    "evaluate": {"every": STEPS, "k": 2, "votes": 2, "base_temperatures": [0.6], "fresh": False},
}


def write_sweep(folder: Path, cells: int, search: bool = False) -> Path:
    """A grid of `cells` tiny runs, two temperatures or one, and as many RL seeds, or a search; returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "tiny.yaml"
    program.write_text(yaml.safe_dump(EXPERIMENT))
    temperatures = [0.8, 1.0] if cells % 2 == 0 else [1.0]
    grid = {
        "method": "grid",
        "parameters": {
            "rollout.temperature": {"values": temperatures},
            "seeds.rl": {"values": list(range(cells // len(temperatures)))},
        },
    }
    of_search = {
        "method": "bayes",
        "run_cap": cells,
        "early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 2},
        "parameters": {
            "train.learning_rate": {"min": 1e-5, "max": 1e-2, "distribution": "log_uniform_values"},
            "rollout.temperature": {"min": 0.5, "max": 1.5},
        },
    }
    content = {
        "name": NAME,
        "program": str(program),
        "metric": {"name": "majority_ratio", "goal": "maximize"},
        "command": COMMAND,
        **(of_search if search else grid),
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


def undisturbed_grid(folder: Path, cells: int, agents: int) -> Path:
    """Run a grid in peace; the folder of its records."""
    file, place = write_sweep(folder, cells), folder / "peace"
    argv = [sys.executable, "-m", "ttrl_repro.cli", "sweep", "run", str(file), f"--agents={agents}"]
    subprocess.run([*argv, "--folder", str(place)], check=True, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL)
    return place


@dataclass
class Disturbance:
    """What is done to a fleet, and when: one thing every so often, until all was done."""

    fleet: Fleet
    generator: random.Random
    done: Counter[str] = field(default_factory=Counter)

    @property
    def kills(self) -> int:
        return self.done["agents killed"] + self.done["runs killed"]

    def kill_one(self) -> None:
        """SIGKILL an agent or a run: every other time whichever comes up, else one in the middle of its training."""
        until = time.monotonic() + (AIM if self.kills % 2 else 0.0)
        while not (aimed := self._in_training()) and time.monotonic() < until:
            time.sleep(0.1)  # every look reads whole checkpoints
        agents = [agent.pid for agent in self.fleet.agents if agent.poll() is None]
        anybody = [*agents, *(child for pid in agents for child in children_of(pid))]
        victim = self.generator.choice(aimed if aimed and self.kills % 2 else anybody)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            self.done["agents killed" if victim in agents else "runs killed"] += 1

    def _in_training(self) -> list[int]:
        """Runs that have a whole checkpoint and steps to go, and their agents."""
        found = []
        for agent in self.fleet.agents:
            for run in children_of(agent.pid):
                with contextlib.suppress(OSError, UserError):  # it may end meanwhile
                    # Its record is its last argument; of a process that has just ended there are none.
                    _, _, record = Path(f"/proc/{run}/cmdline").read_text().rstrip("\0").rpartition("\0")
                    newest = checkpoints.newest(Path(record) / "checkpoints") if record else None
                    if newest is not None and int(newest.name.rpartition("-")[2]) < STEPS:
                        found += [agent.pid, run]
        return found

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
        killed = disturbance.kills
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


def complaints(fleet: Fleet, peace: Path | None, rows: list[CellRow], study: optuna.Study) -> list[str]:
    """What is not as it must be, a line each. peace: the undisturbed sweep, of a grid."""
    wrong, said = [], fleet.said()
    died = [line for line in said.splitlines() if re.match(r"Traceback|ttrl: ", line)]
    wrong += [f"a run hung: {line}" for line in said.splitlines() if ": hung: " in line]
    # One that starts while the server is away says so and ends: nothing is taken for working that cannot be reached.
    wrong += [f"an agent died of its own: {line}" for line in died if not (fleet.storage and "cannot be used" in line)]
    for row in rows:
        if row.state != FINISHED and (peace is not None or row.state != PRUNED):
            wrong.append(f"{row.cell}: {row.state}: {row.error}")
        record = fleet.folder / "runs" / row.cell
        if not (record / "manifest.json").is_file():
            wrong.append(f"{row.cell}: no record")
            continue
        wrong += [f"{row.cell}: {what}" for what in record_complaints(record, row.state)]
        if peace is not None:
            wrong += [f"{row.cell}: {what}" for what in differences(record, peace / "runs" / row.cell)]
        times = len(re.findall(rf"^{re.escape(row.cell)}, claim \d+: (?:finished|pruned)$", said, re.MULTILINE))
        if times > 1:  # none, if its agent was killed between the database and the print
            wrong.append(f"{row.cell}: ended {times} times")
    names = {path.name for path in (fleet.folder / "runs").iterdir()}
    wrong += [f"{name}: is no cell" for name in names - {row.cell for row in rows}]
    wrong += [f"{path}: left over" for path in (fleet.folder / "attempts").glob("*/*")]
    return wrong + study_complaints(rows, study)


def study_complaints(rows: list[CellRow], study: optuna.Study) -> list[str]:
    """Where the study does not say of every cell, once, what the database says; trials of no cell must have failed."""
    wrong = []
    trials = study.get_trials(deepcopy=False)
    wrong += [f"trial {trial.number}: {trial.state.name}" for trial in trials if not trial.state.is_finished()]
    ended = [trial for trial in trials if trial.state.is_finished() and trial.state.name != "FAIL"]
    of_cells = Counter((trial.user_attrs.get("cell"), trial.state) for trial in ended)
    for row in rows:
        if (n := of_cells.pop((row.cell, STATES[row.state]), 0)) != 1:
            wrong.append(f"{row.cell}: {n} trials that {row.state}")
    return wrong + [f"{cell}: a trial that is {state.name}" for cell, state in of_cells]


def record_complaints(record: Path, state: str) -> list[str]:
    """How the record of a cell that ended so is not whole."""
    wrong = []
    manifest = Record.reopen(record).manifest
    if state == FINISHED and (manifest["state"], manifest["steps_done"]) != ("finished", STEPS):
        wrong.append(f"its record is {manifest['state']} after {manifest['steps_done']} steps")
    steps = [row["step"] for row in read_jsonl(record / "metrics.jsonl")]
    if steps != list(range(1, manifest["steps_done"] + 1)):
        wrong.append("metrics.jsonl has not one line per step")
    wrong += [f"{path.name} is half-written" for path in record.rglob("*.partial")]
    return wrong


def differences(record: Path, reference: Path) -> list[str]:
    """How a finished record differs from the undisturbed one."""
    wrong = []
    for name in ("metrics.jsonl", "predictions.jsonl", "config.yaml"):
        if (record / name).read_bytes() != (reference / name).read_bytes():
            wrong.append(f"{name} differs from the undisturbed run's")
    for name in ("votes.parquet", *(f"samples/step-{step:06d}.parquet" for step in range(1, STEPS + 1))):
        if not pq.read_table(record / name).equals(pq.read_table(reference / name)):
            wrong.append(f"{name} differs from the undisturbed run's")
    if read_eval(record) != read_eval(reference):
        wrong.append("its evaluations differ from the undisturbed run's")
    return wrong


def shortfalls(done: Counter[str], kills: int, on_server: bool) -> list[str]:
    """What was to be done to the sweep, and was not. A tenth of the kills must have cut training short."""
    asked = {"full stops": 1, "agents frozen past their lease": 1, "server restarts": int(on_server)}
    wrong = [f"{done[what]} {what} instead of {n}" for what, n in asked.items() if done[what] != n]
    if (n := done["agents killed"] + done["runs killed"]) != kills:
        wrong.append(f"{n} kills instead of {kills}")
    if done["records resumed in training"] < kills // 10:
        wrong.append(f"{done['records resumed in training']} records resumed in training, for {kills} kills")
    return wrong


@dataclass(frozen=True)
class Outcome:
    """Of a sweep under fire: what was done to it, what is wrong with it (a line each), its seconds."""

    done: Counter[str]
    wrong: list[str]
    seconds: float


def stress(
    folder: Path,
    cells: int,
    agents: int,
    kills: int,
    seed: int,
    server: Server | None,
    say: Callable[[str], None],
    peace: Path | None,
) -> Outcome:
    """A sweep in `folder` under fire: the grid whose undisturbed records are in `peace`, or without that a search."""
    search = peace is None
    file = write_sweep(folder, cells, search)
    began = time.monotonic()
    storage = server.url if server is not None else None
    fleet = Fleet(file, folder / "fire", storage, agents)
    fleet.folder.mkdir()
    done = disturb(fleet, kills, seed, server, say)
    seconds = time.monotonic() - began
    store = Store(storage or sqlite_url(fleet.folder / "sweep.db"), NAME)
    rows = store.cells()
    study_url = storage if search and storage else sqlite_url(fleet.folder / "study.db")
    if not search:
        export_grid(read_sweep(file), rows, study_url)
    study = optuna.load_study(study_name=NAME, storage=study_url)
    done["claims taken over"] = sum(row.takeovers for row in rows)
    done["claims lost"] = fleet.said().count(": lost: ")
    for path in (fleet.folder / "runs").iterdir():
        after = [resumption["step"] for resumption in Record.reopen(path).manifest.get("resumed", [])]
        done["records resumed"] += bool(after)
        done["records resumed in training"] += any(0 < step < STEPS for step in after)
    wrong = shortfalls(done, kills, server is not None) + complaints(fleet, peace, rows, study)
    store.close()
    return Outcome(done, wrong, seconds)


def main(
    cells: Annotated[int, typer.Option(min=2)] = 60,
    agents: Annotated[int, typer.Option(min=2)] = 4,
    kills: Annotated[int, typer.Option(min=1)] = 30,
    seed: int = 0,
    folder: Annotated[Path, typer.Option(help="emptied first")] = Path("runs/stress"),
    out: Annotated[Path, typer.Option(help="folder of the results")] = RESULTS,
) -> None:
    """Say what was done, and what is wrong; write stress.txt and stress.json."""
    if binaries() is None:
        raise UserError("PostgreSQL is not installed (Debian: postgresql)")
    if folder.exists():
        shutil.rmtree(folder)
    folder = folder.resolve()
    say = partial(print, flush=True)
    peace = undisturbed_grid(folder, cells, agents)
    say("undisturbed grid finished")
    found: dict[str, Outcome] = {}
    for what, on_server in (("grid", False), ("grid", True), ("search", False)):
        name = f"{what}, {'PostgreSQL' if on_server else 'SQLite'}"
        with Server() if on_server else contextlib.nullcontext() as server:
            of_grid = peace if what == "grid" else None
            found[name] = stress(folder / name.replace(", ", "-"), cells, agents, kills, seed, server, say, of_grid)
        say("\n".join(_lines(name, found[name])))
    header = [f"{cells} cells, {agents} agents, {kills} kills", ""]
    lines = [line for name, outcome in found.items() for line in _lines(name, outcome)]
    write("stress", header + lines[:-1], {name: asdict(outcome) for name, outcome in found.items()}, 1, out)
    raise SystemExit(any(outcome.wrong for outcome in found.values()))


def _lines(name: str, outcome: Outcome) -> list[str]:
    well = (
        "finished exactly once, bitwise as undisturbed" if "grid" in name else "ended exactly once, as its trial says"
    )
    return [
        f"{name}: {outcome.seconds:.0f} s under fire",
        "done to it: " + ", ".join(f"{n} {what}" for what, n in sorted(outcome.done.items())),
        *(outcome.wrong or [f"every cell {well}; nothing left over"]),
        "",
    ]


if __name__ == "__main__":
    with in_one_line("bench.stress"):
        typer.run(main)
