"""Sides of equations and inequalities: names, constants, variables; and what inequalities allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from mpmath import mpf

from ttrl_repro.answers.cutting import Tokens, is_sign, written
from ttrl_repro.answers.expressions import evaluate
from ttrl_repro.answers.intervals import INFINITY, MINUS_INFINITY, Interval, intersection, union_key
from ttrl_repro.answers.tokens import GREEK, Unreadable
from ttrl_repro.answers.values import Values, minus, multiple_key, rational, real

_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "="}
_NAMES = {">": "gt", ">=": "ge", "!=": "ne"}


def is_name(tokens: Tokens) -> bool:
    r"""What stands before `=` and names the answer: `x`, `f(x)`, `AB`, `|AB|`, `\angle ABC`, `(x, y)`, `V_1 : V_2`."""
    if not tokens or tokens[0].kind == "number":
        return False
    letters = 0
    # m + n = 127 answers "find m + n", and xy = 25 "find xy"; but x + y = 127 is a line.
    summed = not any(token.kind == "number" or token.text in ("x", "y", "z") for token in tokens)
    for index, token in enumerate(tokens):
        if token.kind in ("letter", "word") or token.text in GREEK:
            letters += 1
        elif token.kind == "number":
            before = tokens[index - 1]
            if not (is_sign(before, "_", "(", "{", ",", "=") or before.kind in ("letter", "number")):
                return False
        elif token.kind == "command":
            if token.text not in ("angle", "triangle", "overline", "circ", "dot", "frac", "max", "min"):
                return False
            ahead = written(tokens[index + 1 : index + 3])
            if token.text == "frac" and (not summed or ahead.startswith(("{d", "{partial"))):
                return False
        elif is_sign(token, "+", "-", "*"):
            if not summed or letters == 0:
                return False
        elif not is_sign(token, "(", ")", "{", "}", "_", ",", "|", ":", "'", "[", "]"):
            return False
    return letters > 0


def is_variable(tokens: Tokens) -> bool:
    """A single letter, maybe with a subscript, that is no constant."""
    first = tokens[0]
    if first.text in ("e", "i") or not (first.kind == "letter" or first.text in GREEK):
        return False
    return len(tokens) == 1 or (is_sign(tokens[1], "_") and (len(tokens) == 3 or is_sign(tokens[2 % len(tokens)], "{")))


def is_constant(tokens: Tokens) -> bool:
    try:
        return len(evaluate(tokens)) == 1
    except Unreadable:
        return False


def is_infinite(tokens: Tokens) -> bool:
    body = tokens[1:] if is_sign(tokens[0], "+", "-") else tokens
    return len(body) == 1 and body[0].text == "infty" and body[0].kind == "command"


def name_of(tokens: Tokens) -> str:
    """A name for telling assignments apart: `W(x)` and `W(n)` are both W."""
    text = written([token for token in tokens if not is_sign(token, "{", "}", "|")])
    head, bracket, _ = text.partition("(")
    return head if bracket and head else text


def of_itself(name: Tokens, value: Tokens) -> bool:
    """Whether `name = value` is an equation after all: `a = b`, `y' = 2y`."""
    if is_variable(name) and is_variable(value):
        return True
    letters = [token.text for token in name if token.kind == "letter"]
    marked = any(token.text in ("'", "dot") for token in name)
    return marked and any(token.kind == "letter" and token.text in letters[:1] for token in value)


def difference(left: Values, right: Values) -> Values:
    """left - right, at every point."""
    size = max(len(left), len(right))
    left, right = (side * size if len(side) == 1 else side for side in (left, right))
    return tuple(minus(a, b) for a, b in zip(left, right, strict=True))


def real_value(tokens: Tokens) -> Fraction | mpf:
    values = evaluate(tokens)
    if len(values) > 1:
        raise Unreadable("a variable where a number should be")
    value = values[0]
    exact = rational(value)
    return exact if exact is not None else real(value)


def inequality_key(parts: Sequence[Tokens], relations: Sequence[str]) -> str:
    """In one variable and linear: the interval that solves it. In one relation of several: up to a positive factor."""
    solved = solution(parts, relations)
    if solved is not None:
        return union_key(solved)
    if len(relations) > 1:
        raise Unreadable("a chain of inequalities that are not linear in one variable")
    left, relation, right = parts[0], relations[0], parts[1]
    values = difference(evaluate(left), evaluate(right))
    if relation in ("<", "<="):
        values, relation = tuple(-value for value in values), _FLIPPED[relation]
    return f"{_NAMES[relation]}:" + multiple_key(values, signed=relation != "!=")


def solution(parts: Sequence[Tokens], relations: Sequence[str]) -> list[Interval] | None:
    """What linear relations in one variable allow, or None for any others."""
    absolute = _absolute(parts, relations)
    if absolute is not None:
        return absolute
    if len(parts) != len(relations) + 1:
        raise Unreadable("relations that are not told apart")
    found: Interval | None = None
    if list(relations) == ["!="]:
        below, above = (_solved(_side(parts[0]), _side(parts[1]), relation) for relation in "<>")
        return [below, above] if below is not None and above is not None else None
    for left, relation, right in zip(parts, relations, parts[1:], strict=False):
        solved = _solved(_side(left), _side(right), relation)
        if solved is None:
            return None
        found = solved if found is None else intersection(found, solved)
    return None if found is None else [found]


def _absolute(parts: Sequence[Tokens], relations: Sequence[str]) -> list[Interval] | None:
    """`|x - 1| < 2` as intervals; None for anything else."""
    if len(parts) == 3:  # 1 <= |x| <= 2: what both of its relations allow
        halves = [_absolute(parts[i : i + 2], relations[i : i + 1]) for i in (0, 1)]
        one, other = sorted((half or [] for half in halves), key=len)
        return [intersection(one[0], piece) for piece in other] if len(one) == 1 and len(other) == 2 else None
    if len(parts) != 2:
        return None
    left, relation, right = parts[0], relations[0], parts[1]
    if not is_sign(left[0], "|"):
        left, relation, right = right, _FLIPPED[relation], left
    inner = left[1:-1]
    bars = [index for index, token in enumerate(left) if is_sign(token, "|")]
    if not inner or bars != [0, len(left) - 1] or relation in ("=", "!=") or not is_constant(right):
        return None
    side, bound = _side(inner), real_value(right)
    if side is None or side.variable is None or bound <= 0:
        return None
    above = _solved(side, _Linear(None, Fraction(0), bound), relation)
    below = _solved(side, _Linear(None, Fraction(0), -bound), _FLIPPED[relation])
    if above is None or below is None:
        return None
    return [intersection(above, below)] if relation.startswith("<") else [above, below]


@dataclass(frozen=True)
class _Linear:
    """slope * variable + constant; no variable: a constant."""

    variable: str | None
    slope: Fraction | mpf
    constant: Fraction | mpf


def _side(tokens: Tokens) -> _Linear | None:
    """A side of an inequality as a linear function of one variable, or None if it is not one."""
    if is_infinite(tokens):
        return _Linear(None, Fraction(0), MINUS_INFINITY if is_sign(tokens[0], "-") else INFINITY)
    sign, body = (-1, tokens[1:]) if is_sign(tokens[0], "-") else (1, tokens)
    if body and is_name(body) and not any(is_sign(token, "|", ",") for token in body):
        return _Linear(written(body), Fraction(sign), Fraction(0))
    if len(body) > 1 and body[0].kind == "number" and is_variable(body[1:]):  # 2x
        return _Linear(written(body[1:]), sign * Fraction(body[0].text), Fraction(0))
    for index in range(len(tokens) - 1, 0, -1):  # 2x + 1, x - 3
        if is_sign(tokens[index], "+", "-"):
            head, tail = _side(tokens[:index]) if index else None, tokens[index + 1 :]
            if head is not None and head.variable is not None and tail and is_constant(tail):
                shift = real_value(tail)
                return _Linear(
                    head.variable, head.slope, head.constant + (shift if tokens[index].text == "+" else -shift)
                )
            break
    return _Linear(None, Fraction(0), real_value(tokens)) if is_constant(tokens) else None


def _solved(left: _Linear | None, right: _Linear | None, relation: str) -> Interval | None:
    """The interval of the variable for which `left relation right`; None where that is not an interval."""
    if left is None or right is None or (left.variable is None) == (right.variable is None) or relation in ("!=", "="):
        return None
    if left.variable is None:
        left, right, relation = right, left, _FLIPPED[relation]
    if left.slope == 0:
        return None
    bound = minus(right.constant, left.constant)
    bound = bound / left.slope if isinstance(bound, Fraction) else bound / real(left.slope)
    if left.slope < 0:
        relation = _FLIPPED[relation]
    closed = relation.endswith("=")
    low, high = MINUS_INFINITY, INFINITY
    if relation.startswith(">"):
        return Interval(bound, closed, high, False)
    return Interval(low, False, bound, closed)
