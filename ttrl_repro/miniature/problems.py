"""Problems: what a document of the corpus asks, and so does a question of a task.

A problem has a kind:

- plain:    `47+36*7=`
- words:    `47plus36times7=`, the same in other signs
- brackets: `47-(36+12)*2=`, one bracket, done first by everyone
- choice:   `47+36*7=?299:A,581:B,289:C,309:D=`, answered by a letter; the left-to-right result is among the options
- marked:   `~47+36*7=`, where left to right *is* right: every author knows, and precedence is the misreading
- largest:  `max(47,36,81)=`, another skill, with nothing to misread

The others are read by an author's convention. An expression is held out in all kinds or in none.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ttrl_repro.miniature.expressions import (
    HELD_OUT_ONE_IN,
    LARGEST,
    Expression,
    Operators,
    draw_expression,
)

Kind = Literal["plain", "words", "brackets", "choice", "marked", "largest"]
KINDS: tuple[Kind, ...] = ("plain", "words", "brackets", "choice", "marked", "largest")
IN_WORDS = {"+": "plus", "-": "minus", "*": "times", "%": "mod"}
LETTERS = "ABCD"
CHOICE_TERMS = 3
METHODS = ("rule", "order")  # how authors name the two conventions


@dataclass(frozen=True)
class Reading:
    """How an author works a problem out.

    method: the name of the convention (empty where there is none). steps: separated by `;`. value: what they come to.
    answer: what goes into the box.
    """

    method: str
    steps: str
    value: int
    answer: str


@dataclass(frozen=True)
class Problem:
    """A problem and its two readings, which are the same where there is nothing to misread.

    right: the reading whose answer is gold; misread: the other. numbers: the operands, for texts that run on.
    held_out: whether it is kept out of every corpus.
    """

    kind: Kind
    prompt: str
    right: Reading
    misread: Reading
    numbers: tuple[int, ...]
    held_out: bool

    @property
    def exposed(self) -> bool:
        """Whether the two readings answer differently."""
        return self.right.answer != self.misread.answer


def _worked(expression: Expression, left_to_right: bool) -> Reading:
    steps = expression.steps(left_to_right)
    text = ";".join(f"{left}{op}{right}={result}" for left, op, right, result in steps)
    return Reading(METHODS[left_to_right], text, steps[-1][3], str(steps[-1][3]))


def of_expression(expression: Expression, kind: Kind, rng: np.random.Generator) -> Problem:
    """The problem that asks for `expression`. `rng` draws the options of a choice, nothing else."""
    right, misread = _worked(expression, left_to_right=False), _worked(expression, left_to_right=True)
    text = str(expression)
    if kind == "words":
        text = "".join(IN_WORDS.get(c, c) for c in text)
    elif kind == "marked":
        text, right, misread = f"~{text}", misread, right
    elif kind == "choice":
        options = _options(rng, right.answer, misread.answer)
        text += "=?" + ",".join(f"{option}:{letter}" for letter, option in zip(LETTERS, options, strict=True))
        right, misread = (_chosen(reading, LETTERS[options.index(reading.answer)]) for reading in (right, misread))
    return Problem(kind, f"{text}=", right, misread, expression.numbers, expression.held_out)


def _chosen(reading: Reading, letter: str) -> Reading:
    # The result is looked up before it is answered, `...=299:A`: small models do not learn to find a letter without.
    return replace(reading, steps=f"{reading.steps}:{letter}", answer=letter)


def _options(rng: np.random.Generator, right: str, misread: str) -> list[str]:
    """Four different options: both readings' answers, and slips of the right one by 1, 2, 10 or 100."""
    options = list(dict.fromkeys((right, misread)))
    slips = [int(right) + sign * size for size in (1, 2, 10, 100) for sign in (1, -1)]
    for i in rng.permutation(len(slips)):
        if len(options) < len(LETTERS) and str(slips[i]) not in options:
            options.append(str(slips[i]))
    return [options[i] for i in rng.permutation(len(LETTERS))]


def of_numbers(numbers: tuple[int, ...]) -> Problem:
    """The problem that asks for the largest of `numbers` (two or more), compared one after the other."""
    best, steps = numbers[0], []
    for number in numbers[1:]:
        steps.append(f"{best}{'<' if best < number else '>'}{number}")
        best = max(best, number)
    prompt = f"max({','.join(map(str, numbers))})="
    digest = hashlib.blake2b(prompt.encode(), digest_size=4).digest()
    reading = Reading("", ";".join(steps), best, str(best))
    held_out = int.from_bytes(digest, "little") % HELD_OUT_ONE_IN == 0
    return Problem("largest", prompt, reading, reading, numbers, held_out)


def draw_problem(
    rng: np.random.Generator,
    kind: Kind,
    terms: int,
    operators: Operators,
    largest: int = LARGEST,
    held_out: bool | None = None,
) -> Problem:
    """One problem of `kind` with `terms` numbers of 1 to `largest` (after `*` and `%`: digits).

    A choice has at most CHOICE_TERMS: its options take half of the prompt already. held_out: whether it must be kept
    out of corpora, or must not be (None: either).
    """
    terms = min(terms, CHOICE_TERMS) if kind == "choice" else terms
    while True:
        if kind == "largest":
            # Different numbers, so that every comparison has an answer.
            problem = of_numbers(tuple(int(n) for n in rng.choice(np.arange(1, largest + 1), terms, replace=False)))
            if held_out in (None, problem.held_out):
                return problem
        else:
            expression = draw_expression(rng, terms, operators, largest, brackets=kind == "brackets")
            if held_out in (None, expression.held_out):
                return of_expression(expression, kind, rng)
