"""The guarded worker: reads answers from its standard input and writes their keys, one JSON line each.

It parses what a model wrote, so it is not trusted: its memory, its processor time for each answer and the
files it may write (none) are limited by the operating system, and whoever started it (`guard`) kills it if
it does not answer. It imports nothing of the training process.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
from collections.abc import Callable

from ttrl_repro.answers import forms
from ttrl_repro.answers.reply import Reply
from ttrl_repro.answers.tokens import NotMathematics, Unreadable, has_words

# What math-verify knows and `forms` does not; and what it reads as something else, as a product of letters.
_ASKED = re.compile(r"\\(?:sum|prod|int|lim|det|cap|setminus|operatorname|begin\{[vV]matrix\})")
_NOT_ASKED = re.compile(r"\\(?:mid|equiv|p?mod|bmod|[lc]?dots|q?quad|text|colon|cases|choose)|[:…]|\.\.|[lc]dots")
# A parser's own faults on an answer; `parse_error` in the metrics, never silent.
_FAILURES = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)


class _TimeIsUp(BaseException):
    """Raised by the timer inside whatever is computing; no library catches it."""


def _time_is_up(*_: object) -> None:
    raise _TimeIsUp


def limit(memory: int) -> None:
    """Limit this process for good: address space in bytes, no files written, no core dumps."""
    for kind, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        _lower(kind, most)


def _lower(kind: int, most: int) -> None:
    """Lower a soft limit, to no more than the hard one."""
    hard = resource.getrlimit(kind)[1]
    try:
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    except ValueError:
        if sys.platform != "darwin":  # which knows RLIMIT_AS but refuses to lower it; time is limited all the same
            raise


def read(answer: str, seconds: float) -> Reply:
    """The key of one answer: by our own parser, or else by math-verify, each within `seconds`."""
    reply, unreadable = timed(_read, answer, seconds)
    if not unreadable or not _ASKED.search(answer) or _NOT_ASKED.search(answer) or has_words(answer):
        return reply
    # Loading it takes a second, once, which is not the answer's fault.
    from ttrl_repro.answers import sympy_forms

    return timed(lambda text: _read_by_sympy(sympy_forms.key_of, text), answer, seconds)[0]


def timed(reader: Callable[[str], tuple[Reply, bool]], answer: str, seconds: float) -> tuple[Reply, bool]:
    """What `reader` makes of an answer, within `seconds` of processor time.

    A Python computation is interrupted after that. One that does not return to Python is killed by the
    operating system, with the process, about a second later.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 2)
    try:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        return reader(answer)
    except _TimeIsUp:
        return Reply(None, "parse_timeout"), False
    except MemoryError:
        return Reply(None, "parse_error"), False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))


def _read(answer: str) -> tuple[Reply, bool]:
    """The reply, and whether another parser should be asked."""
    try:
        return Reply(forms.key_of(answer), "parsed"), False
    except NotMathematics:
        return Reply(None, "text"), False
    except Unreadable:
        return Reply(None, "text"), True
    except _FAILURES:
        return Reply(None, "parse_error"), False


def _read_by_sympy(key_of: Callable[[str], str], answer: str) -> tuple[Reply, bool]:
    try:
        return Reply(key_of(answer), "parsed"), False
    except Unreadable:
        return Reply(None, "text"), False
    except _FAILURES:  # SymPy's own, on what latex2sympy made
        return Reply(None, "parse_error"), False


def main() -> None:
    """Serve until the input ends. Arguments: seconds for each answer, bytes of memory."""
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGPROF, _time_is_up)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
    limit(memory)
    # What libraries print must not get between the replies.
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.setrecursionlimit(2000)
    sys.dont_write_bytecode = True
    replies.write("ready\n")
    replies.flush()
    for line in sys.stdin:
        try:
            reply: object = read(json.loads(line), seconds)
        except ImportError as error:  # of the installation, not of an answer
            reply = (str(error), "broken")
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
