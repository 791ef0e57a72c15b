"""The guarded worker: reads answers from its standard input and writes their keys, one JSON line each.

It parses what a model wrote, so it is not trusted: its memory, its processor time for each answer and the
files it may write (none) are limited by the operating system, and whoever started it (`guard`) kills it if
it does not answer. It imports nothing of the training process.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys

from ttrl_repro.answers.reply import Reply


class _TimeIsUp(BaseException):
    """Raised by the timer inside whatever is computing; no library catches it."""


def _time_is_up(*_: object) -> None:
    raise _TimeIsUp


def limit(memory: int) -> None:
    """Limit this process for good: address space in bytes, no files written, no core dumps."""
    for kind, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def read(answer: str, seconds: float) -> Reply:
    """The key of one answer, within `seconds` of processor time.

    A Python computation is interrupted after that. One that does not return to Python is killed by the
    operating system, with the process, about a second later.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    ceiling = int(used.ru_utime + used.ru_stime + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (ceiling, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return _read(answer)
    except _TimeIsUp:
        return Reply(None, "parse_timeout")
    except MemoryError:
        return Reply(None, "parse_error")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _read(answer: str) -> Reply:
    from ttrl_repro.answers import forms
    from ttrl_repro.answers.tokens import NotMathematics, Unreadable

    try:
        return Reply(forms.key_of(answer), "parsed")
    except NotMathematics:
        return Reply(None, "text")
    except Unreadable:
        if not _worth_asking(answer):
            return Reply(None, "text")
    from ttrl_repro.answers import sympy_forms

    try:
        return Reply(sympy_forms.key_of(answer), "parsed")
    except Unreadable:
        return Reply(None, "text")
    except (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return Reply(None, "parse_error")  # SymPy's own failures on what latex2sympy made


def _worth_asking(answer: str) -> bool:
    """Whether math-verify may know what `forms` does not: LaTeX commands, and no prose."""
    from ttrl_repro.answers.tokens import has_words

    return "\\" in answer and not has_words(answer)


def main() -> None:
    """Serve until the input ends. Arguments: seconds for each answer, bytes of memory."""
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGPROF, _time_is_up)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which then ends this process
    limit(memory)
    # What libraries print must not get between the replies.
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.setrecursionlimit(2000)
    sys.dont_write_bytecode = True
    for line in sys.stdin:
        reply = read(json.loads(line), seconds)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
