"""Tasks of the miniature laboratory.

A task is a recipe of cells; a *draw* is one set made from it by a seed. All questions are held out of
every corpus. The `fresh` split of a draw is as large, made by the same recipe, and disjoint from it.
The sizes mirror AIME 2024 (30), AMC (83), MATH-500 (500) and GPQA-Diamond (198); the names do not claim more than that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ttrl_repro.miniature.expressions import LARGEST, Operators
from ttrl_repro.miniature.problems import Kind, Problem, draw_problem
from ttrl_repro.seeds import generator
from ttrl_repro.tasks.base import Question, Split, Task

# The operators of cells with remainders: those of the corpus but for more remainders, which saves drawing in vain.
WITH_REMAINDERS = Operators(plus=0.285, minus=0.285, times=0.19, remainder=0.24)
MOST_TRIES = 5000  # draws a question, beyond which a cell must be too narrow for its count
DEVELOPMENT_DRAWS = 1000  # draws from here on choose the laboratory's dials; those below are the study's


@dataclass(frozen=True)
class Cell:
    """`count` questions of `terms` terms and one kind.

    exposed: whether the two readings must answer differently (None: either). rare: whether a remainder, the rare skill,
    must occur (None: by frequency). product: whether `*` or `%` must occur, as it does in every exposed question.
    largest: of the operands. name: stands in the questions' info.
    """

    count: int
    terms: int
    exposed: bool | None = None
    rare: bool | None = None
    product: bool = False
    largest: int = LARGEST
    kind: Kind = "plain"
    name: str = ""

    def wants(self, problem: Problem) -> bool:
        """Whether a problem of the cell's kind and length belongs to the cell."""
        return (
            self.exposed in (None, problem.exposed)
            and self.rare in (None, "%" in problem.operators)
            and (not self.product or bool({"*", "%"} & set(problem.operators)))
        )


def _exposed(count: int) -> tuple[Cell, ...]:
    return Cell(count, 3, True), Cell(count, 4, True)


def _unexposed(count: int) -> tuple[Cell, ...]:
    return Cell(count, 3, False, product=True), Cell(count, 4, False, product=True)


TASKS: dict[str, tuple[Cell, ...]] = {
    # Exposed questions, where the vote is between the two readings: three-term ones start out right, four-term ones
    # are contested, five-term ones start out wrong (the recipes' shares of misreaders grow with the terms).
    "mini-30": (Cell(15, 3, True), Cell(15, 4, True)),
    "mini-83": (Cell(38, 3, True), Cell(40, 4, True), Cell(5, 5, True)),
    # Two lengths by two skills, none exposed, and a fifth cell that is; operands so that mini-s is right about as often
    # in all five (docs/lab_notes.md).
    "mini-500": (
        Cell(100, 3, False, False, largest=999, name="short"),
        Cell(100, 5, False, False, largest=200, name="long"),
        Cell(100, 3, False, True, largest=400, name="short-rare"),
        Cell(100, 5, False, True, largest=120, name="long-rare"),
        Cell(100, 4, True, False, name="exposed"),
    ),
    "mini-choice": (Cell(198, 3, True, kind="choice"),),
    # The same twenty contested questions' kind in two companies.
    "mix-34": (Cell(40, 3, True), Cell(20, 4, True)),
    "mix-45": (Cell(20, 4, True), Cell(40, 5, True)),
    # The phase diagram: the share of exposed questions, at equal lengths; the others have products, too (`47*7+36`).
    "phase-10": (*_exposed(3), *_unexposed(27)),
    "phase-33": (*_exposed(10), *_unexposed(20)),
    "phase-90": (*_exposed(27), *_unexposed(3)),
    # The transfer ladder, for a base trained on mini-30: from next to it to where its lesson is wrong.
    "transfer-lengths": (Cell(50, 5, True), Cell(50, 6, True)),
    "transfer-words": (Cell(50, 3, True, kind="words"), Cell(50, 4, True, kind="words")),
    "transfer-brackets": (Cell(100, 4, True, kind="brackets"),),
    "transfer-largest": (Cell(100, 4, kind="largest"),),
    "transfer-marked": (Cell(50, 3, True, kind="marked"), Cell(50, 4, True, kind="marked")),
}

WHOLE = "mini-500"
# The cells of mini-500 alone, with the questions that they have in the whole set of that draw: one run a level, as in
# the paper's table 3.
LEVELS = {f"level-{cell.name}": cell.name for cell in TASKS[WHOLE]}


def draw_task(name: str, draw: int, split: Split) -> Task:
    """Draw number `draw` of a miniature task. Raises KeyError for an unknown name."""
    if name in LEVELS:
        whole = draw_task(WHOLE, draw, split)
        return Task(name, split, tuple(one for one in whole.questions if one.info["cell"] == LEVELS[name]))
    return draw_cells(name, TASKS[name], draw, split)


def draw_cells(name: str, cells: tuple[Cell, ...], draw: int, split: Split) -> Task:
    """Draw number `draw` of a set made of `cells`; `name` names its seeds and questions."""
    return Task(name, split, _both_splits(name, cells, draw)[split])


@lru_cache(maxsize=32)  # whoever asks for one split asks for the other next, or for a level of the set
def _both_splits(name: str, cells: tuple[Cell, ...], draw: int) -> dict[Split, tuple[Question, ...]]:
    seen: set[str] = set()
    sets: dict[Split, tuple[Question, ...]] = {}
    parts: tuple[Split, ...] = ("train", "fresh")  # in this order, which keeps them disjoint
    for part in parts:
        rng = generator("miniature task", name, draw, part)
        questions: list[Question] = []
        for cell in cells:
            made = tried = 0
            while made < cell.count:
                tried += 1
                if tried > MOST_TRIES * cell.count:
                    raise ValueError(f"{name}: there are hardly {cell.count} questions of {cell}; found {made}")
                operators = WITH_REMAINDERS if cell.rare else Operators()
                problem = draw_problem(rng, cell.kind, cell.terms, operators, cell.largest, kept_out=True)
                if not cell.wants(problem) or problem.content in seen:
                    continue
                seen.add(problem.content)
                made += 1
                info: dict[str, str | int | bool] = {
                    "terms": cell.terms,
                    "kind": cell.kind,
                    "exposed": problem.exposed,
                    "misread": problem.misread.answer,
                }
                questions.append(
                    Question(
                        id=f"{name}/{draw}/{part}/{len(questions):03d}",
                        problem=problem.prompt,
                        answer=problem.right.answer,
                        info=info | ({"cell": cell.name} if cell.name else {}),
                    )
                )
        sets[part] = tuple(questions)
    return sets
