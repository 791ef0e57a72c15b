"""Tasks of the miniature laboratory (provisional, like its bases).

A task is a recipe of cells; a *draw* is one set made from it by a seed. All questions are held out of
every corpus. The `fresh` split of a draw is as large, made by the same recipe, and disjoint from it.
The sizes mirror AIME 2024 (30), AMC (83) and MATH-500 (500); the names do not claim more than that.
"""

from __future__ import annotations

from dataclasses import dataclass

from ttrl_repro.miniature.expressions import Operators, draw_expression
from ttrl_repro.seeds import generator
from ttrl_repro.tasks.base import Question, Split, Task


@dataclass(frozen=True)
class Cell:
    """`count` questions of `terms` terms; `exposed` asks that the two readings differ (None: either)."""

    count: int
    terms: int
    exposed: bool | None = None


TASKS: dict[str, tuple[Cell, ...]] = {
    # Every question is exposed to the shared misconception, which a minority of authors holds at three
    # terms and a majority at five: the vote starts out right on the one kind, wrong on the other.
    "mini-30": (Cell(20, 3, True), Cell(10, 5, True)),
    "mini-83": (Cell(28, 3), Cell(28, 4), Cell(27, 4, True)),
    "mini-500": tuple(Cell(100, terms) for terms in (2, 3, 4, 5, 6)),
}


def draw_task(name: str, draw: int, split: Split) -> Task:
    """Draw number `draw` of a miniature task. Raises KeyError for an unknown name."""
    seen: set[str] = set()
    sets: dict[str, tuple[Question, ...]] = {}
    # Both splits are made in this order whichever is asked for, which keeps them disjoint.
    for part in ("train", "fresh"):
        rng = generator("miniature task", name, draw, part)
        questions: list[Question] = []
        for cell in TASKS[name]:
            made = 0
            while made < cell.count:
                expression = draw_expression(rng, cell.terms, Operators())
                text = str(expression)
                if not expression.held_out or text in seen:
                    continue
                if cell.exposed is not None and expression.exposed != cell.exposed:
                    continue
                seen.add(text)
                made += 1
                questions.append(
                    Question(
                        id=f"{name}/{draw}/{part}/{len(questions):03d}",
                        problem=f"{text}=",
                        answer=str(expression.value()),
                        info={
                            "terms": cell.terms,
                            "exposed": expression.exposed,
                            "left_to_right": str(expression.value(left_to_right=True)),
                        },
                    )
                )
        sets[part] = tuple(questions)
    return Task(name, split, sets[split])
