"""Contestants in processes of their own: a line of JSON is a turn, the line that comes back is what it took.

TRL, accelerate and vLLM keep settings (precision, threads, signal handlers) for a whole process, so that two of
them in one process would not be what each of them is alone. A process that waits for its turn costs nothing.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bench.harness import ROOT, Run


class Worker:
    """A contestant in its own process, to be used in a `with` block.

    A turn sends {"repeat": n, **request} and takes {"seconds": s, ...} for an answer; `amount` names the
    answer's field with the amount of work (None: every turn is 1). `opening`: sent once before the first turn, and
    answered with anything (kept in `opened`).
    """

    def __init__(
        self,
        command: Sequence[str],
        request: Mapping[str, Any] | None = None,
        amount: str | None = None,
        opening: Mapping[str, Any] | None = None,
    ) -> None:
        self.command, self.request, self.amount, self.opening = list(command), request or {}, amount, opening
        self.opened: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._errors: IO[str] = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        if self.opening is not None:
            self.opened = self._ask(self.opening)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # which tells it to end
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __call__(self, repeat: int) -> Run:
        """One turn. Raises RuntimeError with the process's last words if it ended instead of answering."""
        answer = self._ask({"repeat": repeat, **self.request})
        amount = answer.pop(self.amount) if self.amount else 1
        return Run(amount, answer.pop("seconds"), answer)

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(f"{' '.join(self.command)}: ended with {code}:\n{self._errors.read()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def python(module: str, *arguments: str) -> list[str]:
    """The command of one of this package's modules."""
    return [sys.executable, "-m", module, *arguments]


class Turns(TrainerCallback):
    """A training loop as a worker: each request is one optimizer step.

    A step lasts from the request to the moment where the next step would begin: sampling, the update, logging and
    what is written down are all in it. `report()` adds fields to the answer (called outside of the time). The
    trainer's own prints must not go to `answers`. The process ends with its requests.
    """

    def __init__(self, answers: IO[str], report: Callable[[], Mapping[str, Any]]) -> None:
        self.answers, self.report = answers, report
        self.started: float | None = None

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.started is not None:
            seconds = time.perf_counter() - self.started
            fields = {"seconds": seconds, "resident_bytes": resident_bytes(), **self.report()}
            self.answers.write(json.dumps(fields) + "\n")
            self.answers.flush()
        if not sys.stdin.readline():
            raise SystemExit(0)
        self.started = time.perf_counter()


def resident_bytes() -> int:
    """Memory that this process holds now (its peak, where the system has no /proc)."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def only_answers_on_stdout() -> IO[str]:
    """Standard output for the answers; whatever else prints goes to standard error from now on."""
    answers, sys.stdout = sys.stdout, sys.stderr
    return answers
