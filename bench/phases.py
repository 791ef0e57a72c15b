"""Where the seconds go: timers around functions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any


class Phases:
    """Seconds by phase. A phase inside another one is counted as itself alone."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds: Counter[str] = Counter()
        self._inside: list[str] = []
        self._since = 0.0

    def _switch(self) -> None:
        now = self.clock()
        if self._inside:
            self.seconds[self._inside[-1]] += now - self._since
        self._since = now

    def around(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time is counted as `phase`."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._switch()
            self._inside.append(phase)
            try:
                return function(*args, **kwargs)
            finally:
                self._switch()
                self._inside.pop()

        return timed

    def watch(self, owner: Any, name: str, phase: str) -> None:
        """Count the time in `owner`'s method as `phase`, from now on."""
        setattr(owner, name, self.around(phase, getattr(owner, name)))

    def take(self) -> dict[str, float]:
        """Seconds by phase since the last call."""
        taken = dict(self.seconds)
        self.seconds.clear()
        return taken
