"""Being told to stop: what a process does on SIGINT and SIGTERM for as long as some work goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_interrupt(handler: Callable[[int], None]) -> Iterator[None]:
    """Call `handler` with the signal's number on SIGINT and SIGTERM; afterwards they do what they did before."""

    def handle(number: int, _frame: FrameType | None) -> None:
        handler(number)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
