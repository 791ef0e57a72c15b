"""Question sets behind one small interface: the miniature's tasks and a user's own JSONL."""

from __future__ import annotations

from pathlib import Path

from ttrl_repro.errors import UserError
from ttrl_repro.tasks.base import Question, Split, Task
from ttrl_repro.tasks.jsonl import read_jsonl
from ttrl_repro.tasks.miniature import LEVELS, TASKS, draw_task

__all__ = ["Question", "Split", "Task", "has_fresh_split", "load_task", "task_names"]


def task_names() -> list[str]:
    """Names that `load_task` knows, besides paths."""
    return [*sorted(TASKS), *sorted(LEVELS)]


def has_fresh_split(spec: str) -> bool:
    """Whether a task comes with a disjoint fresh set (a user's own file does not)."""
    return spec in TASKS or spec in LEVELS


def load_task(spec: str, draw: int = 0, split: Split = "train") -> Task:
    """A task by name or by path to a `.jsonl` file. Raises UserError for an unknown task."""
    if spec in TASKS or spec in LEVELS:
        return draw_task(spec, draw, split)
    if spec.endswith(".jsonl"):
        path = Path(spec).expanduser()
        if not path.is_file():
            raise UserError(f"task: no such file {spec}")
        if split != "train":
            raise UserError(f"task: {spec} has no {split!r} split")
        return read_jsonl(path)
    raise UserError(f"task: unknown task {spec!r}; known: {', '.join(task_names())}, or a path to a .jsonl file")
