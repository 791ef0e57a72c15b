"""The one exception that means "the user can mend this", and how commands say it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A request that cannot be carried out: its message names file, field and what would be right.

    The command line prints it in one line and exits with code 2, before anything is written.
    Every other exception is a defect of this project and keeps its traceback.
    """


class Interrupted(Exception):
    """The run was asked to stop (SIGINT or SIGTERM) and did, with its record closed. `advice`: how it goes on."""

    def __init__(self, signal_number: int, advice: str) -> None:
        super().__init__(f"interrupted; {advice}")
        self.signal_number = signal_number


def one_line(text: object, line: int = 0) -> str:
    """A line of a text, the first or another (-1: the last), its spaces made single; "" if there is none."""
    lines = str(text).strip().splitlines()
    return " ".join(lines[line].split()) if lines else ""


@contextmanager
def in_one_line(command: str) -> Iterator[None]:
    """Run a command's body: a UserError is one line on standard error and exit code 2, an interrupt 128 + signal."""
    try:
        yield
    except UserError as error:
        print(f"{command}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Interrupted as error:
        print(f"{command}: {error}", file=sys.stderr)
        raise SystemExit(128 + error.signal_number) from None
