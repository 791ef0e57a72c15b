"""Keys by math-verify (latex2sympy, SymPy), for the mathematics that `forms` does not read.

Sums, integrals, limits, determinants, sets by their property ... Runs in the guarded worker alone: SymPy's
time and memory have no bound. Only latex2sympy's grammar sees the text; neither `parse_expr` nor `lambdify`,
which evaluate Python, are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import normalize_latex
from math_verify.parser import LatexExtractionConfig, parse_latex_cached
from mpmath import mpc, mpf
from sympy.core.cache import clear_cache
from sympy.core.relational import Relational

from ttrl_repro.answers import keys
from ttrl_repro.answers.intervals import INFINITY, MINUS_INFINITY, Bound, Interval, union_key
from ttrl_repro.answers.tokens import Unreadable
from ttrl_repro.answers.values import DIGITS, POINTS, Number, checked, multiple_key, point, values_key

_NORMALIZATION = replace(LatexExtractionConfig().normalization_config, boxed="none")


def key_of(text: str) -> str:
    """The key of an answer in LaTeX. Raises Unreadable where math-verify does not read it."""
    # SymPy remembers results: without this, what is in time would depend on what was read before.
    clear_cache()
    parse_latex_cached.cache_clear()
    try:
        parsed = parse_latex_cached(normalize_latex(text, _NORMALIZATION))
    except Exception as error:  # its parser raises whatever its parts raise
        raise Unreadable(f"math-verify: {type(error).__name__}") from error
    if parsed is None:
        raise Unreadable("math-verify: nothing")
    return _key(parsed)


def _key(parsed: Any) -> str:
    if isinstance(parsed, sympy.MatrixBase):
        rows = [[_key(cell) for cell in parsed.row(i)] for i in range(parsed.rows)]
        flat = [cell for row in rows for cell in row]
        return keys.ordered(flat) if 1 in parsed.shape else keys.matrix(rows)
    if isinstance(parsed, sympy.Tuple):
        return keys.ordered([_key(item) for item in parsed])
    if isinstance(parsed, sympy.FiniteSet):
        return keys.listed([_key(item) for item in parsed])
    if isinstance(parsed, sympy.Set):
        return union_key(_intervals(parsed.doit()))
    if isinstance(parsed, sympy.And) and len(parsed.free_symbols) == 1:
        return union_key(_intervals(parsed.as_set()))
    if isinstance(parsed, Relational):
        return _relation(parsed)
    if isinstance(parsed, sympy.Expr):
        return values_key(_values(parsed))
    raise Unreadable(f"math-verify: {type(parsed).__name__}")


def _intervals(found: Any) -> list[Interval]:
    if isinstance(found, sympy.Union):
        return [piece for part in found.args for piece in _intervals(part)]
    if isinstance(found, sympy.FiniteSet):
        return [Interval(_bound(value), True, _bound(value), True) for value in found]
    if isinstance(found, sympy.Interval):
        return [Interval(_bound(found.start), not found.left_open, _bound(found.end), not found.right_open)]
    raise Unreadable(f"math-verify: {type(found).__name__}")


def _bound(value: Any) -> Bound:
    if value in (sympy.oo, -sympy.oo):
        return INFINITY if value == sympy.oo else MINUS_INFINITY
    return _number(value)


def _relation(parsed: Any) -> str:
    if isinstance(parsed, sympy.Eq):
        if isinstance(parsed.lhs, sympy.Symbol):
            return _key(parsed.rhs)
        return "eq:" + multiple_key(_values(parsed.lhs - parsed.rhs), signed=False)
    if len(parsed.free_symbols) == 1:
        try:
            return union_key(_intervals(parsed.as_set()))
        except NotImplementedError as error:
            raise Unreadable("math-verify: an inequality that is not solved") from error
    flip = isinstance(parsed, sympy.Lt | sympy.Le)
    values = _values(parsed.rhs - parsed.lhs if flip else parsed.lhs - parsed.rhs)
    sign = "gt" if parsed.is_Relational and isinstance(parsed, sympy.StrictGreaterThan | sympy.StrictLessThan) else "ge"
    if isinstance(parsed, sympy.Ne):
        return "ne:" + multiple_key(values, signed=False)
    return f"{sign}:" + multiple_key(values, signed=True)


def _values(parsed: Any) -> tuple[Number, ...]:
    symbols: Sequence[Any] = sorted(parsed.free_symbols, key=str)
    if not symbols:
        return (_number(parsed),)
    places = {symbol: point(str(symbol).replace("{", "").replace("}", "").replace("\\", "")) for symbol in symbols}
    return tuple(
        _number(parsed, {symbol: sympy.Float(str(place[i]), DIGITS) for symbol, place in places.items()})
        for i in range(POINTS)
    )


def _number(parsed: Any, at: dict[Any, Any] | None = None) -> Number:
    if parsed.has(sympy.Derivative):
        raise Unreadable("math-verify: the derivative of an unknown function")
    done = parsed.doit()
    if isinstance(done, sympy.Rational) and not at:
        return checked(Fraction(int(done.p), int(done.q)))
    value = done.evalf(DIGITS, subs=at) if at else done.evalf(DIGITS)
    re, im = value.as_real_imag()
    if not (isinstance(re, sympy.Number) and isinstance(im, sympy.Number)):
        raise Unreadable("math-verify: not a number")
    if not (re.is_finite and im.is_finite):
        raise Unreadable("not a number")
    return checked(mpf(str(re)) if im == 0 else mpc(str(re), str(im)))
