"""A user's own questions: one JSON object a line with `problem`, and optionally `id` and `answer`."""

from __future__ import annotations

from math import isfinite
from pathlib import Path

from ttrl_repro.answers import canonical
from ttrl_repro.errors import UserError
from ttrl_repro.jsonl import read_objects
from ttrl_repro.tasks.base import Question, Task

FIELDS = ("id", "problem", "answer")


def read_jsonl(path: Path) -> Task:
    """The questions in `path`, in order; a missing `id` is the line number.

    Either every question has an `answer` or none has: with some, label accuracy would silently speak
    of a part of the set. Fields other than FIELDS are ignored. Raises UserError naming the line.
    """
    questions: list[Question] = []
    seen: dict[str, int] = {}
    for number, row in read_objects(path, "a field 'problem'", field="task: "):
        where = f"{path}, line {number}"
        problem, answer = row.get("problem"), row.get("answer")
        if not isinstance(problem, str) or not problem.strip():
            raise UserError(f"{where}: field 'problem' must be a non-empty string")
        unreadable = answer is not None and (
            isinstance(answer, bool)
            or not isinstance(answer, str | int | float)
            or (isinstance(answer, float) and not isfinite(answer))
            or canonical(str(answer)) is None
        )
        if unreadable:
            raise UserError(f"{where}: field 'answer' must be a non-empty string or a number, or be left out")
        identifier = str(number if row.get("id") is None else row["id"])
        if identifier in seen:
            raise UserError(f"{where}: id {identifier!r} was used before, on line {seen[identifier]}")
        seen[identifier] = number
        questions.append(Question(identifier, problem, None if answer is None else str(answer)))
    if not questions:
        raise UserError(f"task: {path} has no questions")
    unlabelled = [question.id for question in questions if question.answer is None]
    if unlabelled and len(unlabelled) < len(questions):
        raise UserError(
            f"{path}: {len(unlabelled)} of {len(questions)} questions have no 'answer' "
            f"(first: id {unlabelled[0]!r}); give all of them one, or none"
        )
    return Task(path.stem, "train", tuple(questions))
