r"""From tokens to the key of a whole answer: what kind of thing it is, and the values in it.

Kinds and their keys (grammar in `keys`): numbers and expressions; lists and sets (order does not count);
tuples, vectors and open intervals, which share their notation; half-open and closed intervals, unions;
matrices; ratios; assignments (`x = 1, y = 2`); equations (up to a factor); inequalities (in one variable:
the interval that solves them); numbers in a base; words.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ttrl_repro.answers import keys
from ttrl_repro.answers.cutting import Tokens, closing, is_sign, sides_of, split, trim, written
from ttrl_repro.answers.expressions import evaluate, is_product
from ttrl_repro.answers.intervals import INFINITY, MINUS_INFINITY, Bound, Interval, intersection, union_key
from ttrl_repro.answers.relations import (
    difference,
    inequality_key,
    is_constant,
    is_infinite,
    is_name,
    is_variable,
    name_of,
    of_itself,
    real_value,
    solution,
)
from ttrl_repro.answers.tokens import NotMathematics, Unreadable, tokenize
from ttrl_repro.answers.units import without_unit
from ttrl_repro.answers.values import multiple_key, values_key

_TIME = re.compile(r"[\s$]*([0-9]{1,2}):([0-9]{2})(?:\s|\\text\{|\\[, ]|~|\$){0,4}([apAP])\.?\s?[mM]\.?[\s}$]*")
_MOST_SIGNS = 3  # plus-minus signs in one expression: eight values
_MOST_ITEMS = 200
_MATRICES = frozenset({"matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array"})
_REALS = ("R", "Reals")


def key_of(text: str) -> str:
    """The key of an answer that is mathematics. Raises Unreadable for what is not, or not known here."""
    time = _TIME.fullmatch(text)
    if time:
        return f"{int(time[1])}:{time[2]}{time[3].lower()}m"
    return _answer(trim(tokenize(text)))


# -- lists and assignments -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Item:
    """One answer of a list: its keys (two for a plus-minus) and the name it is assigned to, if any."""

    keys: tuple[str, ...]
    name: str | None


def _answer(tokens: Tokens) -> str:
    groups = [trim(group) for group in split(tokens, ";", words=("and", "or"))]
    groups = [group for group in groups if group]
    if not groups:
        raise Unreadable("nothing")
    lists = [[trim(part) for part in split(group, ",")] for group in groups]
    lists = [[part for part in parts if part] for parts in lists]
    if sum(map(len, lists)) > _MOST_ITEMS:
        raise NotMathematics("too many items")
    if len(lists) == 1 and len(lists[0]) == 1:
        return keys.listed(_item(lists[0][0]).keys)
    solved = _solution_set(tokens, [part for parts in lists for part in parts])
    if solved is not None:
        return solved
    items = [[_item(part) for part in parts] for parts in lists]
    if len(items) > 1 and all(len(group) > 1 and all(item.name for item in group) for group in items):
        # p = 5, q = 2 and p = 7, q = 2: every group is one solution
        return keys.listed([_solution(group) for group in items])
    return _solution([item for group in items for item in group])


def _solution_set(tokens: Tokens, parts: Sequence[Tokens]) -> str | None:
    """`x < 1 or x > 2` and `x > 1 and x < 2`: the numbers that they allow; None for any other list."""
    found: list[Interval] = []
    for part in parts:
        element = split(part, "in")
        sides, relations = sides_of(element[-1]) if len(element) < 3 else ([], [])
        try:
            if relations and set(relations) <= {"<", ">", "<=", ">=", "!="} and len(element) == 1:
                found += solution(sides, relations) or []
            elif (
                not relations
                and sides
                and (len(element) == 2 or is_sign(sides[0][0], "[") or "infty" in written(sides[0]))
            ):
                found += [_interval(sides[0])]
        except Unreadable:
            return None
    if len(found) < len(parts):
        return None
    related = all(sides_of(part)[1] for part in parts)
    if related and len(found) == len(parts) == 2 and not any(token.text == "or" for token in tokens):
        try:
            return union_key([intersection(*found)])  # x > 1 and x < 2; x > 1, x < 2
        except Unreadable:
            if any(token.text == "and" for token in tokens):
                raise
            return union_key(found)  # x < 1, x > 2: nothing is both
    return union_key(found)


def _solution(items: Sequence[_Item]) -> str:
    """A list; or values of different variables, which have an order."""
    names = [item.name for item in items]
    if all(names) and len(set(names)) == len(names) > 1 and all(len(item.keys) == 1 for item in items):
        ordered = sorted(items, key=lambda item: str(item.name))
        return keys.assigned([item.keys[0] for item in ordered])
    found = [key for item in items for key in item.keys]
    if all(len(key) == 1 and key.isalpha() for key in found) and len(set(found)) < len(found):
        return keys.ordered(found)  # T, F, T answers three questions
    return keys.listed(found)


def _item(tokens: Tokens) -> _Item:
    """One answer without top-level commas."""
    signs = sum(is_sign(token, "+-", "-+") for token in tokens)
    if signs == 0:
        return _chunk(tokens, ())
    if signs > _MOST_SIGNS:
        raise NotMathematics("too many plus-minus signs")
    # `\mp` follows `\pm`; several `\pm` are independent of one another.
    tied = any(is_sign(token, "-+") for token in tokens)
    choices = [(s,) * signs for s in (1, -1)] if tied else list(itertools.product((1, -1), repeat=signs))
    found = [_chunk(tokens, choice) for choice in choices]
    return _Item(tuple(dict.fromkeys(key for item in found for key in item.keys)), found[0].name)


# -- relations -----------------------------------------------------------------------------------


def _chunk(tokens: Tokens, signs: Sequence[int]) -> _Item:
    tokens = trim(tokens)
    if not tokens:
        raise Unreadable("nothing")
    element = split(tokens, "in")
    if len(element) == 2 and is_name(element[0]):
        return _Item((_value(trim(element[1]), signs),), None)
    parts, relations = sides_of(tokens)
    if "~" in relations:
        cut = relations.index("~")
        if cut == 0 and is_name(parts[0]):
            return _Item((_value(trim(parts[1]), signs),), written(parts[0]))
        parts, relations = parts[: cut + 1], relations[:cut]
    if not relations:
        return _Item((_value(parts[0], signs),), None)
    if set(relations) == {"="}:
        return _equation(parts, signs)
    return _Item((inequality_key(parts, relations),), None)


def _equation(parts: Sequence[Tokens], signs: Sequence[int]) -> _Item:
    first, last = parts[0], parts[-1]
    if is_name(first) and not of_itself(first, last):
        if is_sign(first[0], "(") and is_sign(first[-1], ")"):
            return _Item((_in_order(first, _value(last, signs)),), name_of(first))
        key = _value(last, signs)
        if is_variable(first) and key.startswith("fn:"):
            key = keys.defined(
                key, "eq:" + multiple_key(difference(evaluate(first), evaluate(last, signs)), signed=False)
            )
        return _Item((key,), name_of(first))
    if is_variable(last) and not is_variable(first) and is_constant(first):  # 5 = x
        return _Item((_value(first, signs),), name_of(last))
    if is_constant(first):  # 2 + 3 = 5: a calculation, whose result comes last
        if is_constant(last):
            return _Item((_value(last, signs),), None)
    elif len(parts) > 2:
        raise Unreadable("a chain of equations")
    sides = [evaluate(side, signs) for side in (first, last)]
    return _Item(("eq:" + multiple_key(difference(*sides), signed=False),), None)


def _in_order(names: Tokens, key: str) -> str:
    """The values of `(x, y) = (1, 2)` as those of `x = 1, y = 2`."""
    variables = [written(part) for part in split(names[1:-1], ",")]
    values = keys.parts(key) if key.startswith("(") else []
    if len(values) != len(variables) or len(set(variables)) < len(variables) or len(variables) < 2:
        return key
    return keys.assigned([value for _, value in sorted(zip(variables, values, strict=True))])


# -- values --------------------------------------------------------------------------------------


def _value(tokens: Tokens, signs: Sequence[int]) -> str:
    """Anything that is not a relation and not a list."""
    tokens = trim(tokens)
    if not tokens:
        raise Unreadable("nothing")
    if len(split(tokens, "cup")) > 1:
        return union_key([part for piece in split(tokens, "cup") for part in _set_parts(trim(piece))])
    if tokens[0].kind == "sign" and tokens[0].text in ("(", "[", r"\{") and closing(tokens, 0) == len(tokens) - 1:
        return _bracketed(tokens)
    if tokens[0].text.startswith("begin ") and closing(tokens, 0) == len(tokens) - 1:
        return _matrix(tokens)
    if is_sign(tokens[0], "empty") and len(tokens) == 1:
        return keys.listed([])
    if _is_reals(tokens):
        return union_key([Interval(MINUS_INFINITY, False, INFINITY, False)])
    if is_infinite(tokens):
        return "-oo" if is_sign(tokens[0], "-") else "oo"
    ratio = split(tokens, ":")
    if len(ratio) > 1:
        return _ratio([trim(part) for part in ratio])
    based = _in_base(tokens)
    if based is not None:
        return based
    return _measured(tokens, signs)


def _bracketed(tokens: Tokens) -> str:
    opened, closed = tokens[0].text, tokens[-1].text
    inner = tokens[1:-1]
    if opened == r"\{":
        if not inner:
            return keys.listed([])
        by_property = [trim(part) for part in split(inner, "|", ":")]
        if len(by_property) > 1:
            element = split(by_property[0], "in")
            if len(by_property) == 2 and is_variable(element[0]) and (len(element) == 1 or _is_reals(element[1])):
                solved = _solution_set(by_property[1], split(by_property[1], ",", words=("and", "or")))
                if solved is not None:
                    return solved
            raise Unreadable("a set by its property")
        return _answer(trim(inner))
    parts = [trim(part) for part in split(inner, ",", ";")]
    if parts and not parts[-1] and len(parts) > 1:
        parts.pop()
    if any(not part for part in parts):
        raise Unreadable("empty brackets")
    if len(parts) > _MOST_ITEMS:
        raise NotMathematics("too many items")
    if len(parts) == 1:
        if (opened, closed) not in (("(", ")"), ("[", "]")):
            raise Unreadable("brackets that do not match")
        return keys.listed(_item(parts[0]).keys)
    if len(parts) == 2 and (opened, closed) != ("(", ")"):
        return union_key([_interval(tokens)])
    if opened + closed not in ("()", "[]"):
        raise Unreadable("brackets that do not match")
    items = [_item(part) for part in parts]
    if any(len(item.keys) != 1 for item in items):
        raise Unreadable("a tuple with a plus-minus")
    if len(items) == 2 and any("oo" in item.keys[0] for item in items):
        return union_key([_interval(tokens)])
    return keys.ordered([item.keys[0] for item in items])


def _set_parts(tokens: Tokens) -> list[Interval]:
    """A part of a union as intervals: an interval, or a set of points."""
    if tokens and is_sign(tokens[0], r"\{"):
        points = [_bound(trim(part)) for part in split(tokens[1:-1], ",")]
        return [Interval(point, True, point, True) for point in points]
    _, relations = sides_of(tokens)
    if relations:
        raise Unreadable("a union of relations")
    return [_interval(tokens)]


def _interval(tokens: Tokens) -> Interval:
    if len(tokens) < 5 or tokens[0].text not in ("(", "[") or tokens[-1].text not in (")", "]"):
        raise Unreadable("not an interval")
    parts = [trim(part) for part in split(tokens[1:-1], ",", ";")]
    if len(parts) != 2:
        raise Unreadable("not an interval")
    low, high = map(_bound, parts)
    return Interval(low, tokens[0].text == "[", high, tokens[-1].text == "]")


def _bound(tokens: Tokens) -> Bound:
    """An end of an interval: a real number, an infinity, or the key of an expression."""
    if not tokens:
        raise Unreadable("an interval without an end")
    if is_infinite(tokens):
        return MINUS_INFINITY if is_sign(tokens[0], "-") else INFINITY
    values = evaluate(tokens)
    if len(values) > 1:
        return values_key(values)
    return real_value(tokens)


def _is_reals(tokens: Tokens) -> bool:
    body = [token for token in tokens if not is_sign(token, "{", "}")]
    return len(body) == 2 and body[0].text == "mathbb" and body[1].text in _REALS


def _matrix(tokens: Tokens) -> str:
    if tokens[0].text[6:] not in _MATRICES:
        raise Unreadable(f"environment {tokens[0].text[6:]}")
    rows = [split(row, "&") for row in split(tokens[1:-1], r"\\") if row]
    if not rows or len({len(row) for row in rows}) != 1:
        raise Unreadable("a matrix of uneven rows")
    if len(rows) * len(rows[0]) > _MOST_ITEMS:
        raise Unreadable("matrix too large")
    entries = [[keys.listed(_item(trim(cell)).keys) for cell in row] for row in rows]
    if len(entries) == 1 or len(entries[0]) == 1:  # a vector is a tuple
        flat = [entry for row in entries for entry in row]
        return flat[0] if len(flat) == 1 else keys.ordered(flat)
    return keys.matrix(entries)


def _ratio(parts: Sequence[Tokens]) -> str:
    values = [real_value(part) for part in parts]
    if any(not isinstance(value, Fraction) for value in values) or all(value == 0 for value in values):
        raise Unreadable("a ratio of what is not rational")
    exact = [value for value in values if isinstance(value, Fraction)]
    digits = [written(part) for part in parts]
    if len(exact) == 2 and len(digits[1]) == 2 and digits[1].isdecimal() and exact[0] <= 24 and exact[1] < 60:
        return f"{exact[0]}:{digits[1]}"  # maybe a time: 3:45 is not 2:30
    scale = next(value for value in exact if value)
    return ":".join(str(value / abs(scale)) for value in exact)


def _in_base(tokens: Tokens) -> str | None:
    r"""`52_8`, `4210_{5}`: digits in a stated base, other than ten; None if it is not that."""
    sign = "-" if is_sign(tokens[0], "-") else ""
    body = tokens[1:] if sign else tokens
    if len(body) < 3 or not (body[0].kind == "number" and body[0].text.isdigit() and is_sign(body[1], "_")):
        return None
    base = written([token for token in body[2:] if not is_sign(token, "{", "}", "(", ")")])
    if not base.isdigit() or len(base) > 2 or int(base) < 2:
        return None
    digits = body[0].text.lstrip("0") or "0"
    return f"{sign}{digits}" if int(base) == 10 else f"{sign}{digits}_{int(base)}"


def _measured(tokens: Tokens, signs: Sequence[int]) -> str:
    """An expression, maybe followed by a unit, a percent sign or the letters of an ordinal."""
    if all(token.kind in ("word", "letter") or is_sign(token, "-", "'", ".", ",") for token in tokens):
        words = [token for token in tokens if token.kind == "word"]
        if any(len(token.text) > 1 and token.text.isupper() for token in words):  # points, true and false: an order
            raise NotMathematics("words")
        if len(tokens) == 1 and tokens[0].kind == "letter":
            return values_key(evaluate(tokens)) if tokens[0].text in ("e", "i") else tokens[0].text
        if any(token.upright or not is_product(token.text) for token in words):
            raise NotMathematics("words")
    rest, percent, scale = without_unit(tokens)
    values = evaluate(rest, signs)
    key = values_key(tuple(value * scale for value in values) if scale > 1 else values)
    if len(rest) == 1 and rest[0].kind == "letter" and key.startswith("fn:"):
        key = rest[0].text
    return key + "%" if percent else key
