"""`ttrl sweep`: the commands. Thin, as `ttrl_repro.cli` is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttrl_repro.errors import Interrupted, UserError, one_line
from ttrl_repro.interrupts import on_interrupt

if TYPE_CHECKING:
    from ttrl_repro.sweeps.files import SweepFile
    from ttrl_repro.sweeps.search import Search
    from ttrl_repro.sweeps.store import Store

QUIET = "TTRL_SWEEP_QUIET"  # environment variable of agents whose starter has said what there is to say

app = typer.Typer(help="Many runs from one file in W&B's sweep format, each cell exactly once.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="sweep file, as in sweeps/")]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="TTRL_STORAGE", help="database of cells, as postgresql+psycopg://... (default: a file in the folder)"
    ),
]
Folder = Annotated[Path | None, typer.Option(help="where records go (default: runs/sweeps/NAME)")]


@app.command("plan")
def plan_command(
    file: File,
    records: Annotated[
        list[Path] | None, typer.Option(help="folders of finished runs to measure by (default: runs)")
    ] = None,
) -> None:
    """Cells, minutes and gigabytes, before anything runs."""
    from ttrl_repro.sweeps.files import read_sweep
    from ttrl_repro.sweeps.status import plan

    sweep = read_sweep(file)
    print(plan(sweep, records or [Path("runs")]), end="")
    if sweep.method != "grid":
        from ttrl_repro.sweeps.search import differences

        print("".join(f"{line}\n" for line in differences(sweep)), end="")


@app.command("agent")
def agent_command(
    file: File,
    storage: Storage = None,
    folder: Folder = None,
    lease: Annotated[float, typer.Option(min=1.0, help="seconds after which a silent agent's cell is free")] = 60.0,
    retries: Annotated[int, typer.Option(min=0, help="how often a cell that fails is tried again")] = 2,
    failures: Annotated[int, typer.Option(min=1, help="failures in a row that end this agent")] = 3,
    cells: Annotated[int | None, typer.Option(min=1, help="end after so many cells")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of a search")] = 0,
    wait: Annotated[bool, typer.Option(help="stay while others run: their cells may need somebody")] = True,
    grace: Annotated[float, typer.Option(min=0.0, help="seconds for a stopped run's checkpoint")] = 60.0,
    silence: Annotated[float, typer.Option(min=1.0, help="seconds after which a silent run is taken to hang")] = 7200.0,
) -> None:
    """Run cells until none is left. Start as many as you like, anywhere that reaches the storage."""
    from ttrl_repro.sweeps.agent import Agent, Limits
    from ttrl_repro.sweeps.enqueue import enqueue
    from ttrl_repro.sweeps.files import read_sweep

    sweep = read_sweep(file)
    limits = Limits(retries=retries, failures_in_a_row=failures, cells=cells, grace=grace, silence=silence)
    _say_differences(sweep)
    with _open(sweep, storage, folder, lease) as (store, place):
        enqueue(sweep, store, seed)
        search = _search(sweep, store, storage, place, seed)
        tally = Agent(store, sweep, place, search, limits).run(wait)
    print(f"{tally.finished} cells finished, {tally.failed} failures, {tally.lost} lost")
    if tally.told_to_stop:
        print("ended as told by `ttrl sweep stop`")
    if tally.in_a_row >= failures:
        print(f"ttrl: ended after {tally.in_a_row} failures in a row: {tally.last_failure}", file=sys.stderr)
    if tally.in_a_row >= failures or tally.given_up:
        raise SystemExit(1)


@app.command("run")
def run_command(
    file: File,
    agents: Annotated[int, typer.Option(min=1, help="agents on this machine")] = 1,
    storage: Storage = None,
    folder: Folder = None,
    lease: Annotated[float, typer.Option(min=1.0)] = 60.0,
    retries: Annotated[int, typer.Option(min=0)] = 2,
    failures: Annotated[int, typer.Option(min=1)] = 3,
    seed: Annotated[int, typer.Option(min=0, help="of a search")] = 0,
    grace: Annotated[float, typer.Option(min=0.0)] = 60.0,
    silence: Annotated[float, typer.Option(min=1.0)] = 7200.0,
) -> None:
    """Run a whole sweep with some agents on this machine, then say how it went. Options as of `agent`."""
    from ttrl_repro.sweeps.enqueue import enqueue
    from ttrl_repro.sweeps.files import read_sweep
    from ttrl_repro.sweeps.store import ENDED, FAILED

    sweep = read_sweep(file)
    _say_differences(sweep)
    with _open(sweep, storage, folder, lease) as (store, place):
        enqueue(sweep, store, seed)  # what is wrong with the file or the storage is said once
        _search(sweep, store, storage, place, seed)
    argv = [sys.executable, "-m", "ttrl_repro.cli", "sweep", "agent", str(file), "--folder", str(place)]
    argv += [f"--lease={lease}", f"--retries={retries}", f"--failures={failures}", f"--seed={seed}"]
    argv += [f"--grace={grace}", f"--silence={silence}"]
    threads = str(max((os.cpu_count() or 1) // agents, 1))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, QUIET: "1"}
    environment |= {"TTRL_STORAGE": storage} if storage else {}
    # A group of their own: the terminal's Ctrl-C reaches them through us.
    children = [subprocess.Popen(argv, env=environment, start_new_session=True) for _ in range(agents)]
    received: list[int] = []

    def pass_on(number: int) -> None:
        received.append(number)
        for child in children:
            child.terminate()

    with on_interrupt(pass_on):
        codes = [child.wait() for child in children]
    if received:
        raise Interrupted(received[0], f"`ttrl sweep run {file}` goes on")
    with _open(sweep, storage, folder, lease) as (store, place):
        print(_status(sweep, store, verbose=False), end="")
        rows = store.cells()
    if any(codes) or any(row.state not in ENDED or row.state == FAILED for row in rows):
        raise SystemExit(1)


@app.command("status")
def status_command(
    file: File,
    storage: Storage = None,
    folder: Folder = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="list all")] = False,
) -> None:
    """Done, running, failed, missing, and the time left."""
    from ttrl_repro.sweeps.files import read_sweep

    sweep = read_sweep(file)
    with _open(sweep, storage, folder, create=False) as (store, _):
        print(_status(sweep, store, verbose), end="")


@app.command("retry")
def retry_command(
    file: File,
    cells: Annotated[list[str] | None, typer.Argument(help="failed cells (default: all)")] = None,
    storage: Storage = None,
    folder: Folder = None,
) -> None:
    """Let failed cells wait again; agents take them from where they were."""
    from ttrl_repro.sweeps.files import read_sweep

    with _open(read_sweep(file), storage, folder, create=False) as (store, _):
        print(f"{store.retry(cells or ())} cells wait again")


@app.command("stop")
def stop_command(file: File, storage: Storage = None, folder: Folder = None) -> None:
    """Tell all agents to write checkpoints, give their cells back, and end. New agents go on."""
    from ttrl_repro.sweeps.files import read_sweep

    with _open(read_sweep(file), storage, folder, create=False) as (store, _):
        store.stop()
        print(f"told {store.counts()['running']} running cells' agents to end; they do when they renew their leases")


@app.command("study")
def study_command(file: File, storage: Storage = None, folder: Folder = None) -> None:
    """Where Optuna's dashboard finds the sweep; of a grid, the study is written first, from what has ended."""
    from ttrl_repro.sweeps.files import read_sweep
    from ttrl_repro.sweeps.search import Search, export_grid
    from ttrl_repro.sweeps.store import shown

    sweep = read_sweep(file)
    with _open(sweep, storage, folder, create=False) as (store, place):
        if sweep.method == "grid":
            url = _study_url(None, place)
            print(f"{export_grid(sweep, store.cells(), url)} cells have ended")
        else:
            url = _study_url(storage, place)
            Search(store, sweep, url).follow()  # an agent may have died before it told an outcome
    print(f"optuna-dashboard {shown(url)}")


def _study_url(storage: str | None, place: Path) -> str:
    from ttrl_repro.sweeps.store import sqlite_url

    return storage or sqlite_url(place / "study.db")


def _search(sweep: SweepFile, store: Store, storage: str | None, place: Path, seed: int) -> Search | None:
    """What proposes the cells; None for a grid, whose cells are known."""
    if sweep.method == "grid":
        return None
    from ttrl_repro.sweeps.search import Search

    return Search(store, sweep, _study_url(storage, place), seed)


def _say_differences(sweep: SweepFile) -> None:
    """Where Optuna's methods are not W&B's; once, also for several agents."""
    if sweep.method != "grid" and QUIET not in os.environ:
        from ttrl_repro.sweeps.search import differences

        for line in differences(sweep):
            print(f"note: {line}", file=sys.stderr)


def _status(sweep: SweepFile, store: Store, verbose: bool) -> str:
    from ttrl_repro.sweeps.status import best, status

    rows = store.cells()
    missing: list[str] = []
    size = sweep.size()
    if sweep.method == "grid" and size is not None and size > len(rows):
        there = {row.cell for row in rows}
        missing = [cell.key for cell in islice(sweep.cells(), size) if cell.key not in there]
    to_come = len(missing) if sweep.method == "grid" else max((size or 0) - len(rows), 0)
    text = status(sweep.name, rows, store.now(), missing, to_come, verbose)
    return text if sweep.metric is None else text + best(rows, sweep.metric.maximize)


@contextmanager
def _open(
    sweep: SweepFile, storage: str | None, folder: Path | None, lease: float = 60.0, create: bool = True
) -> Iterator[tuple[Store, Path]]:
    """The sweep's storage and folder. Raises UserError if the storage fails, or is not there and not to be created."""
    from sqlalchemy.exc import OperationalError

    from ttrl_repro.sweeps.store import Store, shown, sqlite_url

    place = folder or Path("runs") / "sweeps" / sweep.name
    file = place / "sweep.db"
    if storage is None and not create and not file.is_file():
        raise UserError(f"{file}: the sweep has not been started here (`ttrl sweep agent {sweep.path}`)")
    url = storage or sqlite_url(file)
    if storage is None:  # else a folder is made when the storage has answered
        _make(place)
    store = Store(url, sweep.name, lease)
    try:
        _make(place)
        if not create and not store.known():
            raise UserError(f"storage {shown(url)}: holds no sweep {sweep.name!r}")
        yield store, place
    except OperationalError as error:
        raise UserError(f"storage {shown(url)}: {one_line(error.orig)}; start agents again when it is back") from error
    finally:
        store.close()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror})") from error
