"""Untrusted answers, parsed in a worker process that is limited in time and memory and restarted when it dies.

One worker for each process, started when it is first needed: it works off the main thread, in every rank of
a distributed run and after a fork. A reply is a line of JSON, so nothing of the worker's is ever executed here.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping

from ttrl_repro.answers.reply import Outcome, Reply
from ttrl_repro.errors import UserError

SECONDS = 1.0  # of processor time for one answer
PATIENCE = 20.0  # seconds on the clock, for a worker that sleeps or for a machine that is very busy
MEMORY = 1 << 30  # bytes of address space
STARTING = 120.0  # seconds for a worker to start


class GuardError(UserError):
    """The worker cannot work at all: a fault of the installation or of the machine, never of an answer."""


class Guard:
    """Parses answers in a worker. `outcomes` counts what came of them; safe to use from several threads."""

    def __init__(
        self,
        seconds: float = SECONDS,
        memory: int = MEMORY,
        patience: float = PATIENCE,
        module: str = "ttrl_repro.answers.worker",
    ) -> None:
        self.seconds, self.memory, self.patience, self.module = seconds, memory, patience, module
        self.outcomes: Counter[Outcome] = Counter()
        self.restarts = 0
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, answer: str) -> Reply:
        """The worker's reply. One that hangs makes it `parse_timeout`, one that dies of it twice `parse_error`."""
        with self._lock:
            try:
                reply = self._ask(answer) or self._ask(answer) or Reply(None, "parse_error")
            except BaseException:  # interrupted between question and reply: the next reply would be this one's
                self._end()
                raise
            self.outcomes[reply.outcome] += 1
            return reply

    def close(self) -> None:
        """End the worker. The next answer starts another."""
        with self._lock:
            self._end()

    def forget_parent(self) -> None:
        """In the child of a fork: the worker and the lock are the parent's, which may have held it."""
        self._lock, self._process = threading.Lock(), None

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None

    def _ask(self, answer: str) -> Reply | None:
        """The reply, or None if the worker died, of this answer or before it."""
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(answer).encode("ascii") + b"\n")
            process.stdin.flush()
            line = self._line(process, self.patience)
        except BrokenPipeError:
            line = None
        if line is not None:
            key, outcome = json.loads(line)
            if outcome == "broken":
                raise GuardError(f"the process that reads answers cannot use math-verify: {key}")
            return Reply(key, outcome)
        over_time = process.poll() is None or process.returncode == -signal.SIGXCPU
        self._end()
        self.restarts += 1
        return Reply(None, "parse_timeout") if over_time else None

    def _line(self, process: subprocess.Popen[bytes], patience: float) -> bytes | None:
        """One line, or None if the worker died or let its time pass."""
        assert process.stdout is not None
        received, deadline = b"", time.monotonic() + patience
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    process.wait()
                    return None
                received += chunk
        return received

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            command = [sys.executable, "-m", self.module, str(self.seconds), str(self.memory)]
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C is for the run, which then ends this process
                )
            except OSError as error:
                raise GuardError(f"answers are read in a process that cannot be started: {error}") from error
            if self._line(self._process, STARTING) != b"ready\n":
                self._end()
                raise GuardError(f"the process that reads answers ends at once; try: {' '.join(command)}")
        return self._process


def _environment() -> Mapping[str, str]:
    """The caller's, without threads that a parser has no use for, and importing what the caller imports."""
    path = [str(entry) for entry in sys.path if str(entry) not in ("", ".")]
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONSAFEPATH": "1",  # a json.py in the working folder is not ours
    }


GUARD = Guard()
atexit.register(GUARD.close)
os.register_at_fork(after_in_child=GUARD.forget_parent)
