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

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ttrl_repro.miniature.expressions import (
    LARGEST,
    Expression,
    Operators,
    draw_expression,
    held_out,
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

    right: the reading whose answer is gold; misread: the other. numbers, operators: what is asked about. content: the
    same as text, whatever the notation: problems of one content are one question.
    """

    kind: Kind
    prompt: str
    right: Reading
    misread: Reading
    numbers: tuple[int, ...]
    operators: str
    content: str

    @property
    def exposed(self) -> bool:
        """Whether the two readings answer differently."""
        return self.right.answer != self.misread.answer

    @property
    def held_out(self) -> bool:
        """Whether its content is kept out of every corpus."""
        return held_out(self.content)


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
        options = _options(rng, right.value, misread.value)
        text += "=?" + ",".join(f"{option}:{letter}" for letter, option in zip(LETTERS, options, strict=True))
        right, misread = (_chosen(reading, LETTERS[options.index(reading.value)]) for reading in (right, misread))
    return Problem(kind, f"{text}=", right, misread, expression.numbers, expression.operators, expression.chain)


def _chosen(reading: Reading, letter: str) -> Reading:
    # The result is looked up before it is answered, `...=299:A`: small models do not learn to find a letter without.
    return replace(reading, steps=f"{reading.steps}:{letter}", answer=letter)


def _options(rng: np.random.Generator, right: int, misread: int) -> list[int]:
    """Four different options: two results, and a slip of each by less than ten.

    The results are those of the two readings, or, where these agree, theirs and one that is further away. So nothing
    about the numbers tells which of the two is right. The last digit tells all four apart, unless readings share it.
    """
    other = misread
    while other == right or (right == misread and abs(other) % 10 == abs(right) % 10):
        other = right + int(rng.choice((-1, 1))) * int(rng.integers(11, 200))
    options = [right, other]
    for result in (right, other):
        slips = [result + sign * size for size in range(1, 10) for sign in (1, -1)]
        last_digits = {abs(option) % 10 for option in options}
        fitting = [slip for slip in slips if abs(slip) % 10 not in last_digits]
        options.append(fitting[int(rng.integers(len(fitting)))])
    return [options[i] for i in rng.permutation(len(LETTERS))]


def of_numbers(numbers: tuple[int, ...]) -> Problem:
    """The problem that asks for the largest of `numbers` (two or more), compared one after the other."""
    best, steps = numbers[0], []
    for number in numbers[1:]:
        steps.append(f"{best}{'<' if best < number else '>'}{number}")
        best = max(best, number)
    reading = Reading("", ";".join(steps), best, str(best))
    prompt, content = (f"max({','.join(map(str, ordered))})=" for ordered in (numbers, sorted(numbers)))
    return Problem("largest", prompt, reading, reading, numbers, "", content)


def draw_problem(
    rng: np.random.Generator,
    kind: Kind,
    terms: int,
    operators: Operators,
    largest: int = LARGEST,
    kept_out: bool | None = None,
) -> Problem:
    """One problem of `kind` with `terms` numbers of 1 to `largest` (after `*` and `%`: digits).

    A choice has at most CHOICE_TERMS: its options take half of the prompt already. kept_out: whether it must be held
    out of corpora, or must not be (None: either).
    """
    terms = min(terms, CHOICE_TERMS) if kind == "choice" else terms
    while True:
        if kind == "largest":
            # Different numbers, so that every comparison has an answer.
            problem = of_numbers(tuple(int(n) for n in rng.choice(np.arange(1, largest + 1), terms, replace=False)))
            if kept_out in (None, problem.held_out):
                return problem
        else:
            expression = draw_expression(rng, terms, operators, largest, brackets=kind == "brackets")
            if kept_out in (None, held_out(expression.chain)):
                return of_expression(expression, kind, rng)
