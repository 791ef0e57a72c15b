"""An agent: claims cells, runs each as `ttrl run` would, and publishes the record once the database has it as done.

Every claim writes into a folder of its own, attempts/N/CELL with the claim's token N; only the claim that the database
accepts as the finishing one has its folder renamed to runs/CELL. So an agent that was frozen, and wakes after its cell
was taken over, writes where nobody looks. A claim after another begins with a copy of that one's record and goes on
from its checkpoint, to the same metrics, bit for bit. An agent that is killed takes its run with it (Linux).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from sqlalchemy.exc import DBAPIError

from ttrl_repro.checkpoints import SEAL
from ttrl_repro.errors import Interrupted, UserError
from ttrl_repro.records import Record, read_eval
from ttrl_repro.summary import codes_by_protocol, headline
from ttrl_repro.sweeps.files import SweepFile
from ttrl_repro.sweeps.search import Study
from ttrl_repro.sweeps.store import FINISHED, PRUNED, Claim, Lost, Store
from ttrl_repro.tracking import SWEEP

PR_SET_PDEATHSIG = 1  # linux/prctl.h
CANNOT = 2  # exit code of a request that cannot be carried out: tried again, it would be the same
CANNOT_AGAIN = "cannot: "  # before such an outcome


@dataclass(frozen=True)
class Limits:
    """retries: of a failed cell. failures_in_a_row: after which an agent ends. cells: that it claims at most. poll,
    grace: seconds between two looks at a run, and for which a run that is told to stop may write its checkpoint."""

    cells: int | None = None
    retries: int = 2
    failures_in_a_row: int = 3
    poll: float = 0.5
    grace: float = 300.0


@dataclass
class Tally:
    """What an agent did. stopped: why it ended although there was work left, or None."""

    claimed: int = 0
    finished: int = 0
    failed: int = 0
    lost: int = 0
    stopped: str | None = None
    in_a_row: int = field(default=0, repr=False)


class Agent:
    """Runs cells until none is left, or until it is told to end."""

    def __init__(
        self, store: Store, sweep: SweepFile, folder: Path, study: Study | None, limits: Limits | None = None
    ) -> None:
        self.store, self.sweep, self.folder, self.study = store, sweep, folder, study
        self.limits = limits or Limits()
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.tally = Tally()
        self._signal: int | None = None
        self._stops = store.stops()

    def run(self, wait: bool = True) -> Tally:
        """Run cells until all have ended; without `wait`, until none can be claimed. Raises Interrupted on a signal."""
        with self._listening():
            while self._signal is None and self.tally.stopped is None:
                self.repair()
                if self.tally.claimed == self.limits.cells:
                    break
                if self.store.stops() > self._stops:
                    self.tally.stopped = "told to (ttrl sweep stop)"
                    break
                claim = self.store.claim(self.name)
                if claim is not None:
                    self.tally.claimed += 1
                    self._run_cell(claim)
                elif self._proposed():
                    continue
                elif not wait or not self.store.counts()["running"]:
                    break
                else:
                    time.sleep(self.limits.poll)  # others' cells may yet need somebody
        if self._signal is not None:
            raise Interrupted(self._signal, self.folder)
        self.repair()
        if self.study is not None:
            self.study.reconcile()
        return self.tally

    def _proposed(self) -> bool:
        """Whether there is a new cell, for us or for whoever is faster."""
        if self.sweep.method == "grid":
            return False
        assert self.study is not None
        try:
            return self.study.propose()
        except Lost:  # we were too slow, and another agent has the lock
            return True

    # -- one cell ------------------------------------------------------------------------------------

    def _run_cell(self, claim: Claim) -> None:
        began = time.monotonic()
        attempt = self._attempt(claim.cell, claim.token)
        try:
            outcome, value = self._outcome(claim, attempt), None
            if outcome in (FINISHED, PRUNED):
                try:
                    value = self._value(attempt)
                except UserError as error:
                    outcome = f"{CANNOT_AGAIN}{error}"
            seconds = time.monotonic() - began
            if outcome in (FINISHED, PRUNED):
                self.store.finish(claim, value, seconds, outcome)
                self.publish(claim.cell, claim.token)
                self.tally.finished += 1
                self.tally.in_a_row = 0
                self._say(claim, outcome)
            elif outcome == "stopped":
                self.store.release(claim, seconds)
                self._say(claim, "given back")
            else:
                why = outcome.removeprefix(CANNOT_AGAIN)
                again = self.store.fail(claim, why, seconds, self.limits.retries if why == outcome else 0)
                self._failed(claim, why, again)
        except Lost:
            self.tally.lost += 1
            self._say(claim, "lost: the lease ran out, and another agent has it")

    def _outcome(self, claim: Claim, attempt: Path) -> str:
        """Run the cell: FINISHED, PRUNED, "stopped", or what went wrong. Raises Lost."""
        try:
            adopted = self._adopt(claim, attempt)
            if adopted == FINISHED:  # its agent died between its end and the database
                return FINISHED
            log = self.folder / "logs" / f"{claim.cell}.{claim.token}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("wb") as out:
                if adopted is None:
                    argv = [*self.sweep.argv(dict(claim.params), sys.executable), "--out", str(attempt)]
                else:
                    argv = self.sweep.resume_argv(attempt, sys.executable)
                child = subprocess.Popen(
                    argv,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env=self._environment(claim),
                    start_new_session=True,  # a Ctrl-C reaches it through us
                    preexec_fn=_die_with(os.getpid()) if sys.platform.startswith("linux") else None,
                )
        except OSError as error:
            return f"{error.strerror or error}: {error.filename}"
        try:
            ended = self._watch(child, claim, attempt)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        if ended is not None:
            return ended
        if child.returncode == 0:
            return FINISHED
        what = f"killed by signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
        last = _last_line(log)
        return f"{CANNOT_AGAIN if child.returncode == CANNOT else ''}{last or what} ({what}; {log})"

    def _watch(self, child: subprocess.Popen[bytes], claim: Claim, attempt: Path) -> str | None:
        """Wait for a run, keeping its lease. None: it ended by itself. Raises Lost."""
        renewed = time.monotonic()
        reported = 0
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(self.limits.poll)
                return None
            if time.monotonic() - renewed > self.store.lease / 3:
                try:
                    self.store.renew(claim)
                    renewed = time.monotonic()
                    told_to_stop = self.store.stops() > self._stops
                except DBAPIError:
                    # No answer: whatever the database thinks, after a lease the cell is no longer ours.
                    if time.monotonic() - renewed > self.store.lease:
                        raise Lost(claim.cell) from None
                    continue
                if told_to_stop:
                    return self._stop(child, claim)
            if self._signal is not None:
                return self._stop(child, claim)
            if self.study is not None and self.sweep.early_terminate is not None:
                rows = _metric_rows(attempt, self.study_metric)
                if len(rows) > reported:
                    reported = len(rows)
                    if self.study.report(claim, rows):
                        ended = self._stop(child, claim)
                        return ended if ended == FINISHED else PRUNED  # it may have been at its end anyway

    @property
    def study_metric(self) -> str:
        """The name of the metric that is optimised."""
        assert self.sweep.metric is not None
        return self.sweep.metric.name

    def _stop(self, child: subprocess.Popen[bytes], claim: Claim) -> str:
        """Let a run write its checkpoint and end, keeping its lease for so long. Raises Lost."""
        child.terminate()
        until = time.monotonic() + self.limits.grace
        while time.monotonic() < until:
            try:
                child.wait(min(self.store.lease / 3, self.limits.grace))
                break
            except subprocess.TimeoutExpired:
                self.store.renew(claim, patient=True)
        return FINISHED if child.poll() == 0 else "stopped"

    def _value(self, record: Path) -> float | None:
        """The sweep's metric at the end of a record; None without a metric. Raises UserError if the record has none."""
        if self.sweep.metric is None:
            return None
        return final_value(record, self.sweep.metric.name)

    def _failed(self, claim: Claim, why: str, again: bool) -> None:
        self.tally.failed += 1
        self.tally.in_a_row += 1
        self._say(claim, f"failed ({'will be tried again' if again else 'given up'}): {why}")
        if self.tally.in_a_row >= self.limits.failures_in_a_row:
            self.tally.stopped = f"{self.tally.in_a_row} failures in a row; the last: {why}"

    def _say(self, claim: Claim, what: str) -> None:
        print(f"{claim.cell}, claim {claim.token}: {what}", flush=True)

    def _environment(self, claim: Claim) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        sweep = {"name": self.sweep.name, "cell": claim.cell, "parameters": dict(claim.params)}
        return {**os.environ, "PATH": path, SWEEP: json.dumps(sweep)}

    # -- folders ---------------------------------------------------------------------------------------

    def _attempt(self, cell: str, token: int) -> Path:
        return self.folder / "attempts" / str(token) / cell

    def _adopt(self, claim: Claim, attempt: Path) -> str | None:
        """Begin with the record of the newest earlier claim that left any; its state, or None if there is none."""
        attempt.parent.mkdir(parents=True, exist_ok=True)
        if attempt.exists():  # of a claim whose answer got lost with the connection: nobody's
            shutil.rmtree(attempt)
        for token in range(claim.previous, 0, -1):
            before = self._attempt(claim.cell, token)
            if (before / "manifest.json").is_file():
                copy_record(before, attempt)
                return str(Record.reopen(attempt).manifest["state"])
        return None

    def publish(self, cell: str, token: int) -> None:
        """Give the record of a finished cell its place, and delete what other claims left. Safe to do twice."""
        target = self.folder / "runs" / cell
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            try:
                self._attempt(cell, token).rename(target)
            except FileNotFoundError:
                if not target.exists():  # not another agent that did the same
                    raise
        for left in (self.folder / "attempts").glob(f"*/{cell}"):
            shutil.rmtree(left, ignore_errors=True)

    def repair(self) -> None:
        """Publish what an agent finished and died before publishing, where this machine has its folder."""
        here = {path.name for path in (self.folder / "attempts").glob("*/*")}
        for row in self.store.cells(sorted(here)) if here else []:
            if row.state in (FINISHED, PRUNED) and self._attempt(row.cell, row.token).exists():
                self.publish(row.cell, row.token)

    # -- signals ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._signal = number


def copy_record(source: Path, target: Path) -> None:
    """Copy a record that somebody may still be writing: sealed checkpoints and finished files alone.

    Files that are never changed once they have their name (checkpoints, parquet) are linked where the file system can.
    """
    partial = target.with_name(f".{target.name}.copy")
    for _ in range(5):
        if partial.exists():
            shutil.rmtree(partial)
        try:
            shutil.copytree(source, partial, copy_function=_link_or_copy, ignore=_unfinished)
            partial.rename(target)
            return
        except (shutil.Error, FileNotFoundError):
            time.sleep(0.2)  # an old checkpoint was deleted meanwhile
    raise UserError(f"{source}: changes too fast to be copied")


def _link_or_copy(source: str, target: str) -> None:
    fixed = source.endswith(".parquet") or f"{os.sep}checkpoints{os.sep}" in source
    if fixed:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)


def _unfinished(folder: str, names: list[str]) -> set[str]:
    left = {name for name in names if name.endswith(".partial") or name == ".lock"}
    if Path(folder).name == "checkpoints":
        left |= {
            name for name in names if name.startswith("checkpoint-") and not (Path(folder) / name / SEAL).is_file()
        }
    return left


def final_value(record: Path, metric: str) -> float:
    """A metric's last value in a record: of metrics.jsonl, or of the last evaluation, by its name on W&B.

    Raises UserError if the record has no such metric.
    """
    rows = _metric_rows(record, metric)
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


def _metric_rows(record: Path, metric: str) -> dict[int, float]:
    """step -> a metric of metrics.jsonl, of the lines that are complete."""
    path = record / "metrics.jsonl"
    text = path.read_text() if path.is_file() else ""
    rows = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return {row["step"]: row[metric] for row in rows if metric in row}


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return " ".join(lines[-1].split()).removeprefix("ttrl: ") if lines else ""


def _die_with(parent: int) -> Callable[[], None]:
    """For a child: to be killed when the agent dies, so that no cell is computed by two processes."""
    library = ctypes.CDLL(None)  # loaded before the fork

    def ask() -> None:
        library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), signal.SIGKILL)

    return ask
