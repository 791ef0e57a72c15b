"""Run a command that dies with the process that started it: `python tether.py PARENT COMMAND [ARGUMENT ...]`.

PARENT is that process's number. Linux's parent death signal outlives exec, so this process becomes the command. It is
a script of its own, and not a `preexec_fn` of `subprocess`, because Python code between fork and exec can deadlock
where other threads run, as an agent's keeper of leases does. It imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: int, command: list[str]) -> None:
    """Become the command, to be killed when `parent` dies; elsewhere than on Linux just become it."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), signal.SIGKILL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        raise SystemExit(127) from error


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
