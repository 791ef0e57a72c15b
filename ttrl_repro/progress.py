"""Progress on the terminal: one bar for what is under way, with rate and time left."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text


class _Rate(ProgressColumn):
    """Seconds per unit, or units per second, whichever is above 1."""

    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        if not task.speed:
            return Text(f"- {unit}/s")
        return Text(f"{task.speed:.1f} {unit}/s" if task.speed >= 1 else f"{1 / task.speed:.1f} s/{unit}")


class Progress:
    """A stack of bars: `start` opens one, `advance` moves the innermost, `finish` closes it.

    On a terminal the bars move; in a log each one leaves a line when it closes.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._console = Console(stderr=True)
        self._bars = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not enabled or not self._console.is_terminal,
        )
        self._enabled = enabled
        self._stack: list[TaskID] = []

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._stack:
            self.finish()
        self._bars.stop()

    def start(self, name: str, total: int, done: int = 0, unit: str = "it") -> None:
        """Open a bar for `total` units, of which `done` are behind us."""
        self._stack.append(self._bars.add_task(name, total=total, completed=done, unit=unit, note=""))

    def advance(self, note: str = "", amount: int = 1) -> None:
        """One unit (or `amount`) of the innermost bar is done; `note` stands behind it."""
        task = self._bars.tasks[self._bars.task_ids.index(self._stack[-1])]
        before, total = task.completed, task.total or 1
        self._bars.update(self._stack[-1], advance=amount, note=note)
        # Without a terminal: a line for every tenth of the bar.
        if self._enabled and not self._console.is_terminal and before * 10 // total < task.completed * 10 // total:
            self._console.print(f"{task.description}: {task.completed:,.0f}/{total:,.0f} {note}".rstrip())

    def say(self, message: str) -> None:
        """A line above the bars."""
        if self._enabled:
            self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> None:
        """Close the innermost bar."""
        self._bars.remove_task(self._stack.pop())
