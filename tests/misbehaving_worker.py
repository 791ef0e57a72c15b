"""A worker that does what it is told not to, for the tests of the guard; otherwise the real one."""

import os
import signal
import sys
import time

from ttrl_repro.answers import worker


def misbehave(answer: str) -> None:
    if answer == "loop":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPROF])  # as C code that never returns to Python
        while True:
            pass
    if answer == "sleep":
        time.sleep(1000)
    if answer == "import":
        raise ImportError("no module named sympy")
    if answer == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if answer == "memory":
        sys.stderr.close()
        bytearray(1 << 34)


def read(answer: str, seconds: float) -> tuple[str | None, str]:
    def reader(text: str) -> tuple[worker.Reply, bool]:
        misbehave(text)
        return worker.Reply(text, "parsed"), False

    return tuple(worker.timed(reader, answer, seconds)[0])


if __name__ == "__main__":
    worker.read = read
    worker.main()
