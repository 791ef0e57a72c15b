"""Arithmetic expressions and the two ways an author may read them.

An expression is a chain of k terms: `47+36*7`. Its gold value follows operator precedence
(`*` and `%` before `+` and `-`). A share of the corpus' authors reads from left to right instead:
the shared misconception of the laboratory. An expression is *exposed* if the two readings differ
in value; only there can the misconception win a vote.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

LIMIT = 9999  # largest absolute value of an intermediate result, in either reading
HELD_OUT_ONE_IN = 8  # the share of all expressions that no corpus contains and every task draws from
LARGEST = 99  # of a common operand


class Operators(BaseModel):
    """Relative frequency of each operator. `times` and `remainder` take a single digit on the right."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    plus: float = Field(0.36, ge=0)
    minus: float = Field(0.36, ge=0)
    times: float = Field(0.24, ge=0)
    remainder: float = Field(0.04, ge=0)

    @model_validator(mode="after")
    def _some(self) -> Operators:
        if self.plus + self.minus + self.times + self.remainder <= 0:
            raise ValueError("at least one operator needs a positive frequency")
        return self

    def probabilities(self) -> np.ndarray:
        """Probabilities of `+ - * %`, shape (4,)."""
        weights = np.array([self.plus, self.minus, self.times, self.remainder])
        return weights / weights.sum()


SYMBOLS = "+-*%"


@dataclass(frozen=True)
class Expression:
    """A chain `numbers[0] operators[0] numbers[1] ...`, with len(operators) = len(numbers) - 1.

    bracket: the position of the one operator whose two operands stand in brackets, if there is one.
    """

    numbers: tuple[int, ...]
    operators: str
    bracket: int | None = None

    def __str__(self) -> str:
        parts = [str(self.numbers[0])]
        for op, number in zip(self.operators, self.numbers[1:], strict=True):
            parts += [op, str(number)]
        if self.bracket is not None:
            parts[2 * self.bracket] = "(" + parts[2 * self.bracket]
            parts[2 * self.bracket + 2] += ")"
        return "".join(parts)

    @property
    def terms(self) -> int:
        return len(self.numbers)

    @property
    def chain(self) -> str:
        """The expression without its bracket: what is held out, or not, in every notation."""
        return str(Expression(self.numbers, self.operators))

    def steps(self, left_to_right: bool) -> list[tuple[int, str, int, int]]:
        """The derivation as (left, operator, right, result), in the order an author writes it; brackets come first."""
        numbers, operators, out = list(self.numbers), list(self.operators), []
        bracket = self.bracket
        while operators:
            i = 0
            if bracket is not None:
                i, bracket = bracket, None
            elif not left_to_right:
                i = next((j for j, op in enumerate(operators) if op in "*%"), 0)
            left, op, right = numbers[i], operators[i], numbers[i + 1]
            result = apply(op, left, right)
            out.append((left, op, right, result))
            numbers[i : i + 2] = [result]
            del operators[i]
        return out

    def value(self, left_to_right: bool = False) -> int:
        """The gold value (operator precedence), or the value of the left-to-right reading."""
        steps = self.steps(left_to_right)
        return steps[-1][3] if steps else self.numbers[0]

    @property
    def exposed(self) -> bool:
        """Whether the two readings give different values."""
        return self.value() != self.value(left_to_right=True)


def held_out(content: str) -> bool:
    """Whether what a problem asks for is kept out of every corpus: a pure function of its text."""
    digest = hashlib.blake2b(content.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % HELD_OUT_ONE_IN == 0


def apply(op: str, left: int, right: int) -> int:
    """One step. Raises ValueError for an operator outside `+-*%`."""
    if op == "+":
        return left + right
    if op == "-":
        return left - right
    if op == "*":
        return left * right
    if op == "%":
        return left % right
    raise ValueError(f"unknown operator {op!r}; known: {SYMBOLS}")


def acceptable(expression: Expression) -> bool:
    """Within LIMIT, and no remainder of a negative number (a convention of its own), in both readings."""
    for left_to_right in (False, True):
        for left, op, _, result in expression.steps(left_to_right):
            if abs(result) > LIMIT or (op == "%" and left < 0):
                return False
    return True


def draw_expression(
    rng: np.random.Generator, terms: int, operators: Operators, largest: int = LARGEST, brackets: bool = False
) -> Expression:
    """One acceptable expression of `terms` terms.

    Right operands of `*` and `%` are digits, 2 to 9; all others lie between 1 and `largest`. With `brackets`, one
    operator's operands stand in brackets; never to the right of `*` or `%`, which take a digit.
    """
    below = operators.probabilities().cumsum()[:-1]
    while True:
        ops = "".join(SYMBOLS[i] for i in below.searchsorted(rng.random(terms - 1), side="right"))
        numbers = [int(rng.integers(1, largest + 1))]
        numbers += [int(rng.integers(2, 10)) if op in "*%" else int(rng.integers(1, largest + 1)) for op in ops]
        bracket = None
        if brackets:
            places = [i for i in range(terms - 1) if i == 0 or ops[i - 1] in "+-"]
            bracket = int(rng.choice(places))
        expression = Expression(tuple(numbers), ops, bracket)
        if acceptable(expression):
            return expression
