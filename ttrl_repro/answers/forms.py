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

from mpmath import mpf

from ttrl_repro.answers import keys
from ttrl_repro.answers.expressions import evaluate, is_product
from ttrl_repro.answers.intervals import INFINITY, MINUS_INFINITY, Bound, Interval, intersection, union_key
from ttrl_repro.answers.tokens import FUNCTIONS, GREEK, NotMathematics, Token, Unreadable, names, tokenize
from ttrl_repro.answers.values import Values, minus, multiple_key, rational, real, values_key

Tokens = Sequence[Token]

_OPENING = {"(": (")", "]"), "[": (")", "]"), "{": ("}",), r"\{": (r"\}",)}
_CLOSING = frozenset({")", "]", "}", r"\}"})
_RELATIONS = frozenset({"=", "<", ">", "<=", ">=", "!=", "~"})
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "="}
_NAMES = {">": "gt", ">=": "ge", "!=": "ne"}
_TIME = re.compile(r"[\s$]*([0-9]{1,2}):([0-9]{2})(?:\s|\\text\{|\\[, ]|~|\$){0,4}([apAP])\.?\s?[mM]\.?[\s}$]*")
_PUNCTUATION = frozenset({".", ",", ";", ":", "!"})
_MOST_SIGNS = 3  # plus-minus signs in one expression: eight values
_MOST_ITEMS = 200
_PERCENT = frozenset({"percent", "pct", "percentage"})
_ORDINALS = frozenset({"th", "st", "nd", "rd"})
_LETTER_UNITS = frozenset("msghLlNJKVWACFTH")  # upright, after a number: 5\text{ m}; but 2\mathrm{e} is twice e
# Words after a number that make it another one, or say more than a unit.
_NOT_UNITS = names(
    "squared cubed factorial half halves third thirds quarter quarters fourths fifths sixths sevenths eighths ninths "
    "tenths hundredths thousandths millionths billionths not no below above under over increase decrease noon midnight "
    "am pm times more less fewer least most modulo mod power root"
)
# Letters that a product of variables would not be.
_UNITS = names(
    "mm cm dm km ft in yd mi kg mg lb lbs oz ml mL cl min hr hrs sec mph kph usd USD yen Hz kHz MHz GHz Pa kPa mol eV "
    "kJ kW kWh deg rad sq cu units unit"
)
_MAGNITUDES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MATRICES = frozenset({"matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array"})
_REALS = ("R", "Reals")


def key_of(text: str) -> str:
    """The key of an answer that is mathematics. Raises Unreadable for what is not, or not known here."""
    time = _TIME.fullmatch(text)
    if time:
        return f"{int(time[1])}:{time[2]}{time[3].lower()}m"
    return _answer(_trim(tokenize(text)))


# -- cutting tokens ------------------------------------------------------------------------------


def _is(token: Token, *texts: str) -> bool:
    return token.kind == "sign" and token.text in texts


def _trim(tokens: Tokens) -> Tokens:
    """Without punctuation around it and braces that group all of it."""
    start, end = 0, len(tokens)
    while start < end and (_is(tokens[start], *_PUNCTUATION, "=", "=>", "~") or tokens[start].text in ("and", "or")):
        start += 1
    while end > start and (_is(tokens[end - 1], ".", ",", ";", ":") or tokens[end - 1].text in ("and", "or")):
        end -= 1
    tokens = tokens[start:end]
    if len(tokens) > 1 and _is(tokens[0], "{") and _match(tokens, 0) == len(tokens) - 1:
        return _trim(tokens[1:-1])
    return tokens


def _match(tokens: Tokens, start: int) -> int:
    """Index of the bracket that closes the one at `start`. Raises Unreadable if there is none."""
    stack: list[tuple[str, ...]] = []
    for index in range(start, len(tokens)):
        token = tokens[index]
        if token.kind != "sign":
            continue
        if token.text in _OPENING:
            stack.append(_OPENING[token.text])
        elif token.text.startswith("begin "):
            stack.append(("end " + token.text[6:],))
        elif token.text in _CLOSING or token.text.startswith("end "):
            if token.text in ("end floor", "end ceil"):
                continue
            if not stack or token.text not in stack.pop():
                raise Unreadable(f"{token.text!r} closes nothing")
            if not stack:
                return index
    raise Unreadable("a bracket that is never closed")


def _split(tokens: Tokens, *signs: str, words: tuple[str, ...] = ()) -> list[Tokens]:
    """Cut at signs (and words) outside all brackets. Raises Unreadable for unbalanced brackets."""
    parts: list[Tokens] = []
    start = index = 0
    while index < len(tokens):
        token = tokens[index]
        if _is(token, *signs) or (token.kind == "word" and token.text in words):
            parts.append(tokens[start:index])
            start = index + 1
        elif token.kind == "sign":
            if token.text in _OPENING or token.text.startswith("begin "):
                index = _match(tokens, index)
            elif token.text in _CLOSING:
                raise Unreadable(f"{token.text!r} closes nothing")
        index += 1
    return [*parts, tokens[start:]]


def _written(tokens: Tokens) -> str:
    return "".join(token.text for token in tokens)


# -- lists and assignments -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Item:
    """One answer of a list: its keys (two for a plus-minus) and the name it is assigned to, if any."""

    keys: tuple[str, ...]
    name: str | None


def _answer(tokens: Tokens) -> str:
    groups = [_trim(group) for group in _split(tokens, ";", words=("and", "or"))]
    groups = [group for group in groups if group]
    if not groups:
        raise Unreadable("nothing")
    lists = [[_trim(part) for part in _split(group, ",")] for group in groups]
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
        element = _split(part, "in")
        sides, relations = _relation(element[-1]) if len(element) < 3 else ([], [])
        try:
            if relations and set(relations) <= {"<", ">", "<=", ">=", "!="} and len(element) == 1:
                found += _intervals(sides, relations) or []
            elif (
                not relations
                and sides
                and (len(element) == 2 or _is(sides[0][0], "[") or "infty" in _written(sides[0]))
            ):
                found += [_interval(sides[0])]
        except Unreadable:
            return None
    if len(found) < len(parts):
        return None
    related = all(_relation(part)[1] for part in parts)
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
    signs = sum(_is(token, "+-", "-+") for token in tokens)
    if signs == 0:
        return _chunk(tokens, ())
    if signs > _MOST_SIGNS:
        raise NotMathematics("too many plus-minus signs")
    # `\mp` follows `\pm`; several `\pm` are independent of one another.
    tied = any(_is(token, "-+") for token in tokens)
    choices = [(s,) * signs for s in (1, -1)] if tied else list(itertools.product((1, -1), repeat=signs))
    found = [_chunk(tokens, choice) for choice in choices]
    return _Item(tuple(dict.fromkeys(key for item in found for key in item.keys)), found[0].name)


# -- relations -----------------------------------------------------------------------------------


def _chunk(tokens: Tokens, signs: Sequence[int]) -> _Item:
    tokens = _trim(tokens)
    if not tokens:
        raise Unreadable("nothing")
    element = _split(tokens, "in")
    if len(element) == 2 and _is_name(element[0]):
        return _Item((_value(_trim(element[1]), signs),), None)
    parts, relations = _relation(tokens)
    if "~" in relations:
        cut = relations.index("~")
        if cut == 0 and _is_name(parts[0]):
            return _Item((_value(_trim(parts[1]), signs),), _written(parts[0]))
        parts, relations = parts[: cut + 1], relations[:cut]
    if not relations:
        return _Item((_value(parts[0], signs),), None)
    if set(relations) == {"="}:
        return _equation(parts, signs)
    return _Item((_inequality(parts, relations),), None)


def _relation(tokens: Tokens) -> tuple[list[Tokens], list[str]]:
    parts = [_trim(part) for part in _split(tokens, *_RELATIONS)]
    relations, depth = [], 0
    for token in tokens:
        if token.kind == "sign":
            depth += (token.text in _OPENING or token.text.startswith("begin ")) - (
                token.text in _CLOSING or (token.text.startswith("end ") and token.text[4:] not in ("floor", "ceil"))
            )
            if depth == 0 and token.text in _RELATIONS:
                relations.append(token.text)
    if any(not part for part in parts):
        raise Unreadable("a relation with an empty side")
    return parts, relations


def _equation(parts: Sequence[Tokens], signs: Sequence[int]) -> _Item:
    first, last = parts[0], parts[-1]
    if _is_name(first) and not _of_itself(first, last):
        if _is(first[0], "(") and _is(first[-1], ")"):
            return _Item((_in_order(first, _value(last, signs)),), _name(first))
        key = _value(last, signs)
        if _is_variable(first) and key.startswith("fn:"):
            key = keys.defined(
                key, "eq:" + multiple_key(_difference(evaluate(first), evaluate(last, signs)), signed=False)
            )
        return _Item((key,), _name(first))
    if _is_variable(last) and not _is_variable(first) and _is_constant(first):  # 5 = x
        return _Item((_value(first, signs),), _name(last))
    if _is_constant(first):  # 2 + 3 = 5: a calculation, whose result comes last
        if _is_constant(last):
            return _Item((_value(last, signs),), None)
    elif len(parts) > 2:
        raise Unreadable("a chain of equations")
    sides = [evaluate(side, signs) for side in (first, last)]
    return _Item(("eq:" + multiple_key(_difference(*sides), signed=False),), None)


def _of_itself(name: Tokens, value: Tokens) -> bool:
    """Whether `name = value` is an equation after all: `a = b`, `y' = 2y`."""
    if _is_variable(name) and _is_variable(value):
        return True
    letters = [token.text for token in name if token.kind == "letter"]
    marked = any(token.text in ("'", "dot") for token in name)
    return marked and any(token.kind == "letter" and token.text in letters[:1] for token in value)


def _in_order(names: Tokens, key: str) -> str:
    """The values of `(x, y) = (1, 2)` as those of `x = 1, y = 2`."""
    written = [_written(part) for part in _split(names[1:-1], ",")]
    values = keys.parts(key) if key.startswith("(") else []
    if len(values) != len(written) or len(set(written)) < len(written) or len(written) < 2:
        return key
    return keys.assigned([value for _, value in sorted(zip(written, values, strict=True))])


def _difference(left: Values, right: Values) -> Values:
    """left - right, at every point."""
    size = max(len(left), len(right))
    left, right = (side * size if len(side) == 1 else side for side in (left, right))
    return tuple(minus(a, b) for a, b in zip(left, right, strict=True))


def _is_constant(tokens: Tokens) -> bool:
    try:
        return len(evaluate(tokens)) == 1
    except Unreadable:
        return False


def _is_variable(tokens: Tokens) -> bool:
    """A single letter, maybe with a subscript, that is no constant."""
    first = tokens[0]
    if first.text in ("e", "i") or not (first.kind == "letter" or first.text in GREEK):
        return False
    return len(tokens) == 1 or (_is(tokens[1], "_") and (len(tokens) == 3 or _is(tokens[2 % len(tokens)], "{")))


def _is_name(tokens: Tokens) -> bool:
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
            if not (_is(before, "_", "(", "{", ",", "=") or before.kind in ("letter", "number")):
                return False
        elif token.kind == "command":
            if token.text not in ("angle", "triangle", "overline", "circ", "dot", "frac", "max", "min"):
                return False
            ahead = _written(tokens[index + 1 : index + 3])
            if token.text == "frac" and (not summed or ahead.startswith(("{d", "{partial"))):
                return False
        elif _is(token, "+", "-", "*"):
            if not summed or letters == 0:
                return False
        elif not _is(token, "(", ")", "{", "}", "_", ",", "|", ":", "'", "[", "]"):
            return False
    return letters > 0


def _name(tokens: Tokens) -> str:
    """A name for telling assignments apart: `W(x)` and `W(n)` are both W."""
    text = _written([token for token in tokens if not _is(token, "{", "}", "|")])
    head, bracket, _ = text.partition("(")
    return head if bracket and head else text


def _inequality(parts: Sequence[Tokens], relations: Sequence[str]) -> str:
    """In one variable and linear: the interval that solves it. In one relation of several: up to a positive factor."""
    solved = _intervals(parts, relations)
    if solved is not None:
        return union_key(solved)
    if len(relations) > 1:
        raise Unreadable("a chain of inequalities that are not linear in one variable")
    left, relation, right = parts[0], relations[0], parts[1]
    values = _difference(evaluate(left), evaluate(right))
    if relation in ("<", "<="):
        values, relation = tuple(-value for value in values), _FLIPPED[relation]
    return f"{_NAMES[relation]}:" + multiple_key(values, signed=relation != "!=")


def _intervals(parts: Sequence[Tokens], relations: Sequence[str]) -> list[Interval] | None:
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
    if not _is(left[0], "|"):
        left, relation, right = right, _FLIPPED[relation], left
    inner = left[1:-1]
    bars = _is(left[0], "|") and _is(left[-1], "|") and inner and not any(_is(token, "|") for token in inner)
    if not bars or relation in ("=", "!=") or not _is_constant(right):
        return None
    side, bound = _side(inner), _real_value(right)
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
    if _is_infinite(tokens):
        return _Linear(None, Fraction(0), MINUS_INFINITY if _is(tokens[0], "-") else INFINITY)
    sign, body = (-1, tokens[1:]) if _is(tokens[0], "-") else (1, tokens)
    if body and _is_name(body) and not any(_is(token, "|", ",") for token in body):
        return _Linear(_written(body), Fraction(sign), Fraction(0))
    if len(body) > 1 and body[0].kind == "number" and _is_variable(body[1:]):  # 2x
        return _Linear(_written(body[1:]), sign * Fraction(body[0].text), Fraction(0))
    for index in range(len(tokens) - 1, 0, -1):  # 2x + 1, x - 3
        if _is(tokens[index], "+", "-"):
            head, tail = _side(tokens[:index]) if index else None, tokens[index + 1 :]
            if head is not None and head.variable is not None and tail and _is_constant(tail):
                shift = _real_value(tail)
                return _Linear(
                    head.variable, head.slope, head.constant + (shift if tokens[index].text == "+" else -shift)
                )
            break
    return _Linear(None, Fraction(0), _real_value(tokens)) if _is_constant(tokens) else None


def _real_value(tokens: Tokens) -> Fraction | mpf:
    values = evaluate(tokens)
    if len(values) > 1:
        raise Unreadable("a variable where a number should be")
    value = values[0]
    exact = rational(value)
    return exact if exact is not None else real(value)


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


# -- values --------------------------------------------------------------------------------------


def _value(tokens: Tokens, signs: Sequence[int]) -> str:
    """Anything that is not a relation and not a list."""
    tokens = _trim(tokens)
    if not tokens:
        raise Unreadable("nothing")
    if len(_split(tokens, "cup")) > 1:
        return union_key([part for piece in _split(tokens, "cup") for part in _set_parts(_trim(piece))])
    if tokens[0].kind == "sign" and tokens[0].text in ("(", "[", r"\{") and _match(tokens, 0) == len(tokens) - 1:
        return _bracketed(tokens)
    if tokens[0].text.startswith("begin ") and _match(tokens, 0) == len(tokens) - 1:
        return _matrix(tokens)
    if _is(tokens[0], "empty") and len(tokens) == 1:
        return keys.listed([])
    if _is_reals(tokens):
        return union_key([Interval(MINUS_INFINITY, False, INFINITY, False)])
    if _is_infinite(tokens):
        return "-oo" if _is(tokens[0], "-") else "oo"
    ratio = _split(tokens, ":")
    if len(ratio) > 1:
        return _ratio([_trim(part) for part in ratio])
    based = _in_base(tokens)
    if based is not None:
        return based
    return _measured(tokens, signs)


def _bracketed(tokens: Tokens) -> str:
    opening, closing = tokens[0].text, tokens[-1].text
    inner = tokens[1:-1]
    if opening == r"\{":
        if not inner:
            return keys.listed([])
        by_property = [_trim(part) for part in _split(inner, "|", ":")]
        if len(by_property) > 1:
            element = _split(by_property[0], "in")
            if len(by_property) == 2 and _is_variable(element[0]) and (len(element) == 1 or _is_reals(element[1])):
                solved = _solution_set(by_property[1], _split(by_property[1], ",", words=("and", "or")))
                if solved is not None:
                    return solved
            raise Unreadable("a set by its property")
        return _answer(_trim(inner))
    parts = [_trim(part) for part in _split(inner, ",", ";")]
    if parts and not parts[-1] and len(parts) > 1:
        parts.pop()
    if any(not part for part in parts):
        raise Unreadable("empty brackets")
    if len(parts) > _MOST_ITEMS:
        raise NotMathematics("too many items")
    if len(parts) == 1:
        if (opening, closing) not in (("(", ")"), ("[", "]")):
            raise Unreadable("brackets that do not match")
        return keys.listed(_item(parts[0]).keys)
    if len(parts) == 2 and (opening, closing) != ("(", ")"):
        return union_key([_interval(tokens)])
    if opening + closing not in ("()", "[]"):
        raise Unreadable("brackets that do not match")
    items = [_item(part) for part in parts]
    if any(len(item.keys) != 1 for item in items):
        raise Unreadable("a tuple with a plus-minus")
    if len(items) == 2 and any("oo" in item.keys[0] for item in items):
        return union_key([_interval(tokens)])
    return keys.ordered([item.keys[0] for item in items])


def _set_parts(tokens: Tokens) -> list[Interval]:
    """A part of a union as intervals: an interval, or a set of points."""
    if tokens and _is(tokens[0], r"\{"):
        points = [_bound(_trim(part)) for part in _split(tokens[1:-1], ",")]
        return [Interval(point, True, point, True) for point in points]
    _, relations = _relation(tokens)
    if relations:
        raise Unreadable("a union of relations")
    return [_interval(tokens)]


def _interval(tokens: Tokens) -> Interval:
    if len(tokens) < 5 or tokens[0].text not in ("(", "[") or tokens[-1].text not in (")", "]"):
        raise Unreadable("not an interval")
    parts = [_trim(part) for part in _split(tokens[1:-1], ",", ";")]
    if len(parts) != 2:
        raise Unreadable("not an interval")
    low, high = map(_bound, parts)
    return Interval(low, tokens[0].text == "[", high, tokens[-1].text == "]")


def _bound(tokens: Tokens) -> Bound:
    """An end of an interval: a real number, an infinity, or the key of an expression."""
    if not tokens:
        raise Unreadable("an interval without an end")
    if _is_infinite(tokens):
        return MINUS_INFINITY if _is(tokens[0], "-") else INFINITY
    values = evaluate(tokens)
    if len(values) > 1:
        return values_key(values)
    return _real_value(tokens)


def _is_infinite(tokens: Tokens) -> bool:
    body = tokens[1:] if _is(tokens[0], "+", "-") else tokens
    return len(body) == 1 and body[0].text == "infty" and body[0].kind == "command"


def _is_reals(tokens: Tokens) -> bool:
    body = [token for token in tokens if not _is(token, "{", "}")]
    return len(body) == 2 and body[0].text == "mathbb" and body[1].text in _REALS


def _matrix(tokens: Tokens) -> str:
    if tokens[0].text[6:] not in _MATRICES:
        raise Unreadable(f"environment {tokens[0].text[6:]}")
    rows = [_split(row, "&") for row in _split(tokens[1:-1], r"\\") if row]
    if not rows or len({len(row) for row in rows}) != 1:
        raise Unreadable("a matrix of uneven rows")
    if len(rows) * len(rows[0]) > _MOST_ITEMS:
        raise Unreadable("matrix too large")
    entries = [[keys.listed(_item(_trim(cell)).keys) for cell in row] for row in rows]
    if len(entries) == 1 or len(entries[0]) == 1:  # a vector is a tuple
        flat = [entry for row in entries for entry in row]
        return flat[0] if len(flat) == 1 else keys.ordered(flat)
    return keys.matrix(entries)


def _ratio(parts: Sequence[Tokens]) -> str:
    values = [_real_value(part) for part in parts]
    if any(not isinstance(value, Fraction) for value in values) or all(value == 0 for value in values):
        raise Unreadable("a ratio of what is not rational")
    exact = [value for value in values if isinstance(value, Fraction)]
    digits = [_written(part) for part in parts]
    if len(exact) == 2 and len(digits[1]) == 2 and digits[1].isdecimal() and exact[0] <= 24 and exact[1] < 60:
        return f"{exact[0]}:{digits[1]}"  # maybe a time: 3:45 is not 2:30
    scale = next(value for value in exact if value)
    return ":".join(str(value / abs(scale)) for value in exact)


def _in_base(tokens: Tokens) -> str | None:
    r"""`52_8`, `4210_{5}`: digits in a stated base, other than ten; None if it is not that."""
    sign = "-" if _is(tokens[0], "-") else ""
    body = tokens[1:] if sign else tokens
    if len(body) < 3 or not (body[0].kind == "number" and body[0].text.isdigit() and _is(body[1], "_")):
        return None
    base = _written([token for token in body[2:] if not _is(token, "{", "}", "(", ")")])
    if not base.isdigit() or len(base) > 2 or int(base) < 2:
        return None
    digits = body[0].text.lstrip("0") or "0"
    return f"{sign}{digits}" if int(base) == 10 else f"{sign}{digits}_{int(base)}"


def _measured(tokens: Tokens, signs: Sequence[int]) -> str:
    """An expression, maybe followed by a unit, a percent sign or the letters of an ordinal."""
    if all(token.kind in ("word", "letter") or _is(token, "-", "'", ".", ",") for token in tokens):
        words = [token for token in tokens if token.kind == "word"]
        if any(len(token.text) > 1 and token.text.isupper() for token in words):  # points, true and false: an order
            raise NotMathematics("words")
        if len(tokens) == 1 and tokens[0].kind == "letter":
            return values_key(evaluate(tokens)) if tokens[0].text in ("e", "i") else tokens[0].text
        if any(token.upright or not is_product(token.text) for token in words):
            raise NotMathematics("words")
    rest, percent, scale = _without_unit(tokens)
    values = evaluate(rest, signs)
    key = values_key(tuple(value * scale for value in values) if scale > 1 else values)
    if len(rest) == 1 and rest[0].kind == "letter" and key.startswith("fn:"):
        key = rest[0].text
    return key + "%" if percent else key


def _without_unit(tokens: Tokens) -> tuple[Tokens, bool, int]:
    """What stands before unit, percent sign, magnitude and ordinal letters; whether it is a percentage; its factor."""
    end = len(tokens)
    percent, scale = False, 1
    while end > 1:
        token, before = tokens[end - 1], tokens[end - 2]
        word = token.text.lower() if token.kind == "word" else ""
        power = _exponent(tokens[:end])
        if _is(token, "%") or word in _PERCENT:
            percent, end = True, end - 1
        elif word in _MAGNITUDES:
            scale, end = scale * _MAGNITUDES[word], end - 1
        elif power and _measures(tokens[: end - power[1]], power[0]):
            end -= power[1]
        elif word in _ORDINALS and before.kind == "number":
            end -= 1
        elif token.kind == "letter" and end > 3 and _is(before, "/") and _is_unit(tokens[: end - 2]):  # km/h
            end -= 3
        elif _is_unit(tokens[:end]) or (_is(token, "/", "*", ".", ",") and end < len(tokens)):
            end -= 1
        else:
            break
    return tokens[:end], percent, scale


def _measures(tokens: Tokens, exponent: str) -> bool:
    """Whether an exponent after the tokens belongs to a unit, as in cm^2, or to an ordinal, as in 12^{th}."""
    if exponent in _ORDINALS:
        return tokens[-1].kind == "number"
    return exponent in ("2", "3") and _is_unit(tokens)


def _exponent(tokens: Tokens) -> tuple[str, int] | None:
    """The exponent that ends the tokens, if it is a single token, and how many tokens it takes: `^2`, `^{th}`."""
    if len(tokens) > 2 and _is(tokens[-2], "^"):
        return tokens[-1].text, 2
    if len(tokens) > 4 and _is(tokens[-4], "^") and _is(tokens[-3], "{") and _is(tokens[-1], "}"):
        return tokens[-2].text, 4
    return None


def _is_unit(tokens: Tokens) -> bool:
    """Whether the last token is a unit rather than a factor: letters after a number."""
    token = tokens[-1]
    if token.kind not in ("word", "letter"):
        return False
    if token.text.lower() in _NOT_UNITS:
        raise NotMathematics("a word that changes the number")
    if token.upright:
        return len(tokens) > 1 and (token.kind == "word" or (token.text in _LETTER_UNITS and _follows_number(tokens)))
    if token.kind == "letter":
        return False
    long = len(token.text) > 3 or (len(token.text) == 3 and token.space)
    if token.text in _UNITS or (long and not is_product(token.text)):
        rest = tokens[:-1]
        return bool(rest) and not any(
            (t.kind == "letter" and t.text not in ("e", "i") and not t.upright) or t.text in FUNCTIONS for t in rest
        )
    return False


def _follows_number(tokens: Tokens) -> bool:
    return any(token.kind == "number" for token in tokens[:-1])
