"""A task: a named set of questions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Literal

Split = Literal["train", "fresh"]


@dataclass(frozen=True)
class Question:
    """One question. `answer` is the true label, if there is one; training never sees it."""

    id: str
    problem: str
    answer: str | None = None
    info: dict[str, str | int | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """Questions with unique ids. `split` is `train` (the set that TTRL adapts to) or `fresh` (disjoint)."""

    name: str
    split: Split
    questions: tuple[Question, ...]

    def __post_init__(self) -> None:
        ids = [question.id for question in self.questions]
        if len(set(ids)) != len(ids):
            raise ValueError(f"task {self.name}: question ids are not unique")

    @property
    def labelled(self) -> bool:
        """Whether every question has a true label."""
        return all(question.answer is not None for question in self.questions)

    def fingerprint(self) -> str:
        """A hash of ids and problems (not of the labels)."""
        text = json.dumps([[question.id, question.problem] for question in self.questions])
        return hashlib.sha256(text.encode()).hexdigest()[:16]
