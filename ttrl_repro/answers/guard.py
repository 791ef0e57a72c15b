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

SECONDS = 1.0  # of processor time for one answer
PATIENCE = 20.0  # seconds on the clock, for a worker that sleeps or for a machine that is very busy
MEMORY = 1 << 30  # bytes of address space
STARTING = 120.0  # seconds for a worker to start


class GuardError(RuntimeError):
    """The worker cannot be started at all: a fault of the installation, never of an answer."""


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
        self._owner = 0  # process that started the worker: a fork must not talk to its parent's

    def read(self, answer: str) -> Reply:
        """The worker's reply. A worker that dies or hangs on an answer makes it `parse_timeout` or `parse_error`."""
        with self._lock:
            reply = self._ask(answer)
            self.outcomes[reply.outcome] += 1
            return reply

    def close(self) -> None:
        """End the worker. The next answer starts another."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.communicate()
        self._process = None

    def _ask(self, answer: str) -> Reply:
        line = json.dumps(answer).encode("ascii") + b"\n"
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except BrokenPipeError:  # it died since the last answer: not this one's fault
            self._restart()
            return self._ask(answer)
        reply = self._line(process, self.patience)
        if reply is not None:
            key, outcome = json.loads(reply)
            return Reply(key, outcome)
        hung = process.poll() is None
        self._restart()
        over_time = hung or process.returncode == -signal.SIGXCPU
        return Reply(None, "parse_timeout" if over_time else "parse_error")

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
        if self._process is None or self._owner != os.getpid():
            command = [sys.executable, "-m", self.module, str(self.seconds), str(self.memory)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment())
            self._owner = os.getpid()
            if self._line(self._process, STARTING) != b"ready\n":
                self.close()
                raise GuardError(f"the answers' worker does not start: {' '.join(command[:3])}")
        return self._process

    def _restart(self) -> None:
        self.close()
        self.restarts += 1


_SIGXCPU = 24


def _environment() -> Mapping[str, str]:
    """The caller's, without threads that a parser has no use for, and importing what the caller imports."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


GUARD = Guard()


atexit.register(GUARD.close)
