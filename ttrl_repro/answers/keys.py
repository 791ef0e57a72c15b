r"""The grammar of keys, and when two different keys still count as the same answer.

    25  -1/2            a rational number, in lowest terms
    ~1.41421356...      another real number, to 30 digits; `0+~1.41...i`: a complex one
    fn:1f...            an expression with variables: a digest of its values; `x`: a single variable
    fn:1f...=eq:2e...   a variable defined by an expression
    10%   52_8  oo      a percentage; digits in a base; infinity
    {a;b}               a list or set: sorted; with repetitions, but for tuples
    (a;b)               a tuple, a vector, or an open interval
    [a;b)  (a;b)U[c;d]  other intervals, unions
    <a;b>               values of different variables, in the order of their names
    [[a;b];[c;d]]       a matrix
    1:3                 a ratio
    eq:1f... ge:1f...   an equation, up to a factor; an inequality (gt, ge, ne), up to a positive one
    text:east           words

Equal answers have equal keys. Beyond that, some answers say *less* than others and may
mean them; `fits` tells. That relation is not transitive (0.3333 may mean 1/3, and so may 0.333), so
`classes` merges by it only where there is nothing to choose.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache

# A decimal of this many significant digits may be a rounded number: 1.414 for the root of 2, but not 1.4.
LEAST_DIGITS = 4
_MOST_DIGITS = 18  # a key holds 30
_OPENING, _CLOSING = "{([<", "})]>"
_REAL = re.compile(r"~-?[0-9]+\.[0-9]+(?:e[+-]?[0-9]+)?")


# -- making keys ---------------------------------------------------------------------------------


def listed(items: Sequence[str]) -> str:
    """A list or set of answers, whose order does not count. One is itself."""
    flat = list(items)
    if all(item.startswith("(") for item in flat):  # solutions: naming one twice adds nothing
        flat = list(dict.fromkeys(flat))
    return flat[0] if len(flat) == 1 else "{" + ";".join(sorted(flat)) + "}"


def ordered(items: Sequence[str]) -> str:
    """A tuple or a vector."""
    return "(" + ";".join(items) + ")"


def assigned(items: Sequence[str]) -> str:
    """Values of different variables, in the order of the variables' names."""
    return "<" + ";".join(items) + ">"


def defined(expression: str, equation: str) -> str:
    """A variable defined by an expression: `y = 2x + 1` is said by `2x + 1`, and by `2x - y + 1 = 0`."""
    return f"{expression}={equation}"


def matrix(rows: Sequence[Sequence[str]]) -> str:
    """A matrix of more than one row and column."""
    return "[" + ";".join("[" + ";".join(row) + "]" for row in rows) + "]"


# -- reading them --------------------------------------------------------------------------------


def parts(key: str) -> list[str]:
    """What a bracketed key holds."""
    return _split(key[1:-1], ";") if len(key) > 2 else []


def _split(text: str, sign: str) -> list[str]:
    found, depth, start = [], 0, 0
    for index, char in enumerate(text):
        if char in _OPENING:
            depth += 1
        elif char in _CLOSING:
            depth -= 1
        elif char == sign and depth == 0:
            found.append(text[start:index])
            start = index + 1
    return [*found, text[start:]]


@lru_cache(maxsize=65536)
def exact(key: str) -> Fraction | None:
    """The rational number of a key, or None if it is not that of one."""
    digits = key[1:] if key.startswith("-") else key
    above, slash, below = digits.partition("/")
    if above.isascii() and above.isdigit() and (not slash or (below.isascii() and below.isdigit())) and len(key) < 2000:
        return Fraction(key)
    return None


@lru_cache(maxsize=65536)
def _rounded(key: str) -> tuple[Fraction, int] | None:
    """A decimal that may be a rounded number, and its decimal places; None for what is not."""
    value = exact(key)
    if value is None or value.denominator == 1:
        return None
    places, power = 0, 1
    while power % value.denominator:
        places, power = places + 1, power * 10
        if places > _MOST_DIGITS:
            return None
    digits = len(str(abs(value.numerator) * (power // value.denominator)))
    return (value, places) if LEAST_DIGITS <= digits <= _MOST_DIGITS and places >= 2 else None


def _unrounded(key: str) -> Fraction | None:
    """A real number that no finite decimal is, to the digits of its key; None for any other."""
    if _REAL.fullmatch(key):
        return Fraction(key[1:])
    value = exact(key)
    if value is None:
        return None
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return value if rest > 1 else None


# -- answers that say less -----------------------------------------------------------------------


@lru_cache(maxsize=65536)
def fits(weak: str, strong: str) -> bool:
    """Whether `weak` says less than `strong` and may mean it; false for equal keys.

    - a decimal of at least four significant digits may be a rounded or cut number: `1.4142`, `0.6667`;
    - an expression or an equation may be a variable's definition: `2x + 1` or `2x - y + 1 = 0` for `y = 2x + 1`;
    - digits may be those of a number in a stated base: `52` for `52_8`, where the question states it;
    - a percentage may be the number before the sign or a hundredth of it: graders accept both;
    - two whole numbers, the second of two digits or more, may be one with a decimal comma: `2,74`;
    - a list or tuple may be the values of variables: `1, 2` for `x = 1, y = 2`;
    - a list, tuple, interval or matrix may hold such parts, all in the same direction.
    """
    if weak == strong:
        return False
    if weak.endswith("%"):
        number, other = exact(weak[:-1]), exact(strong)
        return number is not None and other is not None and other in (number, number / 100)
    if "=" in strong and weak in _split(strong, "="):
        return True
    if weak.isdecimal() and strong.startswith(weak + "_"):
        return True
    kind, other_kind = _kind(weak), _kind(strong)
    if kind == "number" == other_kind:
        decimal, value = _rounded(weak), _unrounded(strong)
        if decimal is None or value is None:
            return False
        shown, places = decimal
        scaled = abs(value) * 10**places
        digits = abs(shown) * 10**places
        return (shown < 0) == (value < 0) and digits in (int(scaled), int(scaled + Fraction(1, 2)))
    if kind == "list" and other_kind in ("list", "assigned"):
        return _matched(parts(weak), parts(strong))
    if kind == "list" and other_kind == "number":
        return _decimal_comma(parts(weak), strong)
    same = kind == other_kind or (kind == "tuple" and other_kind == "assigned")
    if not same or kind in ("number", "other"):
        return False
    if kind == "union":
        left, right = _split(weak, "U"), _split(strong, "U")
    else:
        left, right = parts(weak), parts(strong)
    if kind == "interval" and (weak[0], weak[-1]) != (strong[0], strong[-1]):
        return False
    return len(left) == len(right) and all(a == b or fits(a, b) for a, b in zip(left, right, strict=True))


def _decimal_comma(items: list[str], number: str) -> bool:
    value = exact(number)
    if value is None or len(items) != 2 or not all(item.removeprefix("-").isdecimal() for item in items):
        return False
    pairs = (items, items[::-1])  # a list's key has lost their order
    return any(
        len(b) >= 2
        and b.isdecimal()
        and abs(value) == abs(int(a)) + Fraction(int(b), 10 ** len(b))
        and (value < 0) == (a[0] == "-")
        for a, b in pairs
    )


def _kind(key: str) -> str:
    first = key[:1]
    if first == "{":
        return "list"
    if first == "<":
        return "assigned"
    if first in ("(", "["):
        if len(_split(key, "U")) > 1:
            return "union"
        if key.startswith("[["):
            return "matrix"
        return "tuple" if first == "(" and key.endswith(")") else "interval"
    return "number" if exact(key) is not None or _REAL.fullmatch(key) else "other"


def _matched(weak: list[str], strong: list[str]) -> bool:
    """Whether the two lists can be paired, each pair equal or fitting."""
    if len(weak) != len(strong) or len(weak) > 12:
        return False
    left, right = list(weak), list(strong)
    for item in weak:
        if item in right:
            left.remove(item)
            right.remove(item)
    return _paired(left, right)


def _paired(left: list[str], right: list[str]) -> bool:
    if not left:
        return True
    return any(fits(left[0], other) and _paired(left[1:], right[:i] + right[i + 1 :]) for i, other in enumerate(right))


def same(a: str, b: str) -> bool:
    """Whether two keys count as the same answer: equal, or one fits the other. Symmetric."""
    return a == b or fits(a, b) or fits(b, a)


def classes(keys: Iterable[str]) -> dict[str, str]:
    """The class of every key, named by its fullest member: a key that fits exactly one other joins it.

    Depends on the set of keys alone, not on their order. Numbers that are both exact never share a class.
    """
    distinct = sorted(set(keys))
    # Whole numbers, which nearly all keys are, can fit digits in a base alone; expressions, definitions alone.
    based, defining = (any(sign in key for key in distinct) for sign in "_=")
    loose = [key for key in distinct if defining or _may_fit(key) or (based and key.isdecimal())]
    joins: dict[str, str] = {}
    for key in loose:
        fuller = [other for other in distinct if fits(key, other)]
        if len(fuller) == 1:
            joins[key] = fuller[0]
    found = {}
    for key in distinct:
        end = key
        while end in joins:
            end = joins[end]
        found[key] = end
    return found


@lru_cache(maxsize=65536)
def _may_fit(key: str) -> bool:
    """Whether a key could fit another one at all: nearly all are whole numbers, which cannot."""
    if key.endswith("%") or key[:1] in ("{", "(", "[", "<"):
        return True
    return _rounded(key) is not None


def right_class(counts: Mapping[str, int], gold: str) -> str | None:
    """Of classes with their numbers of samples, the one that is the gold answer; None if none is.

    At most one is: if gold says too little to tell (two classes may mean it), the larger.
    """
    right = [name for name in counts if same(name, gold)]
    return gold if gold in right else max(right, key=lambda name: (counts[name], name), default=None)


def marked(classed: Sequence[str | None], gold: str) -> list[str | None]:
    """The class of every sample, with the right one called `gold`; None stays None."""
    right = right_class(Counter(name for name in classed if name is not None), gold)
    return [gold if name is not None and name == right else name for name in classed]


def graded(keys: Sequence[str | None], gold: str | None) -> list[str | None]:
    """The class of every key, with the right one called `gold`. Gold has no part in what the classes are."""
    found = classes(key for key in keys if key is not None)
    classed = [None if key is None else found[key] for key in keys]
    return classed if gold is None else marked(classed, gold)
