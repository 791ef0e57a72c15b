"""An agent: claims cells, runs each as `ttrl run` would, and publishes the record once the database has it as done.

Every claim writes into a folder of its own, attempts/N/CELL with the claim's token N; only the claim that the database
accepts as the finishing one has its folder renamed to runs/CELL. So an agent that was frozen, and wakes after its cell
was taken over, writes where nobody looks. A claim after another begins with a copy of that one's record and goes on
from its checkpoint, to the same metrics, bit for bit. An agent that is killed takes its run with it (Linux).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from ttrl_repro.config import name_of
from ttrl_repro.errors import Interrupted, UserError, one_line
from ttrl_repro.interrupts import on_interrupt
from ttrl_repro.records import Record, read_eval, read_jsonl
from ttrl_repro.summary import codes_by_protocol, headline
from ttrl_repro.sweeps import tether
from ttrl_repro.sweeps.files import SweepFile
from ttrl_repro.sweeps.folders import CHECKPOINTS, MANIFEST, Folders
from ttrl_repro.sweeps.keeper import Keeper
from ttrl_repro.sweeps.search import Search
from ttrl_repro.sweeps.store import FINISHED, PRUNED, RUNNING, WAITING, Claim, Lost, Store
from ttrl_repro.tracking import SWEEP, WANDB_SERVICE

LONGEST_REASON = 500  # characters of a failure's reason that are kept
GIVEN_BACK = "given back"
SILENCE = 7200.0  # seconds
TRACE = 1.0  # seconds in which a hanging run prints where it stands


@dataclass(frozen=True)
class Limits:
    """retries: of a failed cell. failures_in_a_row: after which an agent ends. cells: that it claims at most. Seconds:
    poll: between two looks at a run. grace: for which a run that is told to stop may write its checkpoint. silence: in
    which a run must write something, to its log or its record, or it is taken to hang."""

    cells: int | None = None
    retries: int = 2
    failures_in_a_row: int = 3
    poll: float = 0.5
    grace: float = 60.0
    silence: float = SILENCE


@dataclass
class Tally:
    """What an agent did. given_up: cells that failed for good. in_a_row: failures since the last cell that did not."""

    claimed: int = 0
    finished: int = 0
    failed: int = 0
    given_up: int = 0
    lost: int = 0
    in_a_row: int = 0
    last_failure: str = ""
    told_to_stop: bool = False


class Agent:
    """Runs cells until none is left, or until it is told to end."""

    def __init__(
        self, store: Store, sweep: SweepFile, folder: Path, search: Search | None, limits: Limits | None = None
    ) -> None:
        self.store, self.sweep, self.search = store, sweep, search
        self.folders = Folders(folder)
        self.limits = limits or Limits()
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.tally = Tally()
        self._signal: int | None = None
        self._looked = sweep.metric is None or sweep.metric.name.startswith("eval/")  # those are checked beforehand
        self._stops = store.stops()

    def run(self, wait: bool = True) -> Tally:
        """Run cells until all have ended; without `wait`, until none can be claimed. Raises Interrupted on a signal.

        It also ends after `limits.cells`, after `limits.failures_in_a_row`, and when `ttrl sweep stop` tells it to.
        """
        with on_interrupt(self._told):
            while self._signal is None and not self._done():
                self.repair()
                since = time.monotonic()
                claim = self.store.claim(self.name)
                if claim is not None:
                    self.tally.claimed += 1
                    self._run_cell(claim, since)
                elif self.search is not None and self.search.propose():
                    continue
                elif not wait or not any(self.store.counts()[state] for state in (RUNNING, WAITING)):
                    break
                else:
                    time.sleep(self.limits.poll)  # others' cells may yet need somebody
        if self._signal is not None:
            raise Interrupted(self._signal, f"`ttrl sweep agent {self.sweep.path}` goes on")
        self.repair()
        return self.tally

    def _done(self) -> bool:
        self.tally.told_to_stop = self.tally.told_to_stop or self.store.stops() > self._stops
        too_many = self.tally.in_a_row >= self.limits.failures_in_a_row
        return self.tally.told_to_stop or too_many or self.tally.claimed == self.limits.cells

    # -- one cell ------------------------------------------------------------------------------------

    def _run_cell(self, claim: Claim, since: float) -> None:
        began = time.monotonic()
        try:
            with Keeper(self.store, claim, self._stops, since) as keeper:
                outcome, value = self._outcome(claim, keeper)
                seconds = time.monotonic() - began
                if outcome in (FINISHED, PRUNED):
                    self.store.finish(claim, value, seconds, outcome)
                    self.tally.finished += 1
                    self.tally.in_a_row = 0
                elif outcome == GIVEN_BACK:
                    self.store.release(claim, seconds)
                else:
                    again = self.store.fail(claim, outcome, seconds, self.limits.retries)
                    self.tally.failed += 1
                    self.tally.given_up += not again
                    self.tally.in_a_row += 1
                    self.tally.last_failure = outcome
                    outcome = f"failed ({'will be tried again' if again else 'given up'}): {outcome}"
            self._say(claim, outcome)
        except Lost:
            self.tally.lost += 1
            self._say(claim, "lost: its lease ran out before it was renewed")
            return
        if outcome in (FINISHED, PRUNED):
            self._publish(claim.cell, claim.token)
        if self.search is not None:
            self.search.follow()

    def _outcome(self, claim: Claim, keeper: Keeper) -> tuple[str, float | None]:
        """Run the cell: FINISHED or PRUNED with the metric's value, GIVEN_BACK, or what went wrong. Raises Lost."""
        try:
            published = self.folders.published(claim.cell)
            if (published / MANIFEST).is_file():  # of a database that is no more
                ended = FINISHED if Record.reopen(published).manifest["state"] == "finished" else PRUNED
                return ended, self._checked(published, claim, ended)
            attempt = self.folders.attempt(claim.cell, claim.token)
            outcome = self._run(claim, keeper)
            if outcome in (FINISHED, PRUNED):
                return outcome, self._checked(attempt, claim, outcome)
            return outcome, None
        except (Lost, DBAPIError):
            raise
        # Whatever goes wrong with one cell must neither end the agent nor leave the cell running.
        except Exception as error:
            where = f": {error.filename}" if isinstance(error, OSError) and error.filename else ""
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            named = reason if isinstance(error, UserError | OSError) else f"{type(error).__name__}: {reason}"
            return _shortened(f"{named}{where}"), None

    def _checked(self, record: Path, claim: Claim, outcome: str) -> float | None:
        """The value of a record that ended so. Raises UserError if it is none, or not the cell's."""
        found = Record.reopen(record)
        name = name_of(found.experiment())
        if name != claim.cell:
            raise UserError(f"{record}: is the record of {name}: the experiment file was changed meanwhile")
        if outcome == FINISHED and found.manifest["state"] != "finished":
            raise UserError(f"{record}: its run ended well, but it is {found.manifest['state']}")
        return None if self.sweep.metric is None else final_value(record, self.sweep.metric.name)

    def _run(self, claim: Claim, keeper: Keeper) -> str:
        adopted = self.folders.adopt(claim.cell, claim.token, claim.previous)
        attempt = self.folders.attempt(claim.cell, claim.token)
        if adopted is not None and Record.reopen(adopted).manifest["state"] == "finished":
            return FINISHED  # its agent died between its end and the database
        if self.search is not None and adopted is not None and self.search.behind(claim):
            return PRUNED
        log = self.folders.log(claim.cell, claim.token)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as out:
            if adopted is None:
                argv = [*self.sweep.argv(claim.params, sys.executable), "--out", str(attempt)]
            else:
                argv = self.sweep.resume_argv(attempt, sys.executable)
            child = subprocess.Popen(
                [sys.executable, "-I", tether.__file__, str(os.getpid()), *argv],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._environment(claim),
                start_new_session=True,  # a Ctrl-C reaches it through us; and its own children end with it
            )
        try:
            ended = self._watch(child, claim, keeper, attempt, log)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        if ended is not None:
            return ended
        if child.returncode == 0:
            return FINISHED
        what = f"killed by signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
        return _shortened(f"{_said_last(log) or what} ({what}; {log})")

    def _watch(
        self, child: subprocess.Popen[bytes], claim: Claim, keeper: Keeper, attempt: Path, log: Path
    ) -> str | None:
        """Wait for a run. None: it ended by itself. Raises Lost, UserError if it hangs."""
        reported = 0
        sign, since = _sign_of_life(log, attempt), time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(self.limits.poll)
                return None
            if keeper.expired:
                raise Lost(claim.cell)
            if keeper.told_to_stop or self._signal is not None:
                return self._stop(child, claim, keeper)
            if sign != (sign := _sign_of_life(log, attempt)):
                since = time.monotonic()
                self._look_for_the_metric(attempt)
            elif time.monotonic() - since > self.limits.silence:
                child.send_signal(signal.SIGUSR1)  # `ttrl` then prints where its threads are
                time.sleep(TRACE)
                raise UserError(f"hung: it wrote nothing for {self.limits.silence:g} seconds; where, is in {log}")
            if self.search is not None and self.search.stops_early:
                rows = metric_rows(attempt, self.search.metric)
                if len(rows) > reported:
                    reported = len(rows)
                    if self.search.report(claim, rows):
                        ended = self._stop(child, claim, keeper)
                        return ended if ended == FINISHED else PRUNED  # it may have been at its end anyway

    def _look_for_the_metric(self, attempt: Path) -> None:
        """Say at the first step of the first run, rather than at its end, if the sweep's metric is not there."""
        rows = [] if self._looked else read_jsonl(attempt / "metrics.jsonl", complete=True)
        if rows:
            self._looked = True
            assert self.sweep.metric is not None
            name = self.sweep.metric.name
            if name not in rows[-1]:
                there = ", ".join(key for key in rows[-1] if key != "step")
                print(f"note: step {rows[-1]['step']} has no metric {name!r}; it has {there}", flush=True)

    def _stop(self, child: subprocess.Popen[bytes], claim: Claim, keeper: Keeper) -> str:
        """Let a run write its checkpoint and end. Raises Lost."""
        child.terminate()
        until = time.monotonic() + self.limits.grace
        while time.monotonic() < until and child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(self.limits.poll)
            if keeper.expired:
                raise Lost(claim.cell)
        return FINISHED if child.poll() == 0 else GIVEN_BACK

    def _say(self, claim: Claim, what: str) -> None:
        print(f"{claim.cell}, claim {claim.token}: {what}", flush=True)

    def _environment(self, claim: Claim) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        sweep = {"name": self.sweep.name, "cell": claim.cell, "parameters": dict(claim.params)}
        # A W&B service that this process was given outlives a killed run, and would call its id taken for ever after.
        inherited = {name: value for name, value in os.environ.items() if name != WANDB_SERVICE}
        return {**inherited, "PATH": path, SWEEP: json.dumps(sweep)}

    # -- publishing ------------------------------------------------------------------------------------

    def _publish(self, cell: str, token: int) -> None:
        try:
            self.folders.publish(cell, token)
        except OSError as error:
            print(f"{cell}: cannot be published now ({error.strerror}: {error.filename}); the next agent tries again")

    def repair(self) -> None:
        """Publish what an agent finished before it died, and clean up, where this machine has the folder."""
        here = self.folders.attempted()
        for row in self.store.cells(sorted(here)) if here else []:
            if row.state in (FINISHED, PRUNED):
                self._publish(row.cell, row.token)

    def _told(self, number: int) -> None:
        self._signal = number


def final_value(record: Path, metric: str) -> float:
    """A metric's last value in a record: of metrics.jsonl, or of the last evaluation, by its name on W&B.

    Raises UserError if the record has no such metric.
    """
    rows = metric_rows(record, metric)
    if rows:
        return rows[max(rows)]
    opened = Record.reopen(record)
    last = opened.manifest["steps_done"]
    codes = codes_by_protocol(row for row in read_eval(record) if row["step"] == last)
    found = headline(codes, opened.experiment().evaluate.k)
    value = found.get(metric)
    if value is None:
        raise UserError(f"{record}: has no metric {metric!r}; its last evaluation has {', '.join(found) or 'none'}")
    return value


def metric_rows(record: Path, metric: str) -> dict[int, float]:
    """step -> a metric of metrics.jsonl, of the lines that are complete. Raises UserError as `read_jsonl`."""
    rows = read_jsonl(record / "metrics.jsonl", complete=True)
    return {row["step"]: row[metric] for row in rows if metric in row}


def _sign_of_life(log: Path, record: Path) -> tuple[int, ...]:
    """Changes whenever a run prints, or writes a step or a checkpoint."""
    paths = (log, record / "metrics.jsonl", record / MANIFEST, record / CHECKPOINTS)
    return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)


def _said_last(log: Path) -> str:
    return one_line(log.read_text(errors="replace"), -1).removeprefix("ttrl: ")


def _shortened(reason: str) -> str:
    """A reason as databases can keep it and a line can show it."""
    flat = " ".join(reason.replace("\0", " ").split())
    return flat if len(flat) <= LONGEST_REASON else f"{flat[:LONGEST_REASON]}..."
