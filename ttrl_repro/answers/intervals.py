"""Unions of intervals of real numbers, and their keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import mpmath
from mpmath import mpf

from ttrl_repro.answers import keys
from ttrl_repro.answers.tokens import Unreadable
from ttrl_repro.answers.values import number_key, real

# A number, an infinity, or the key of an expression with variables, which has no place on the line.
Bound: TypeAlias = Fraction | mpf | str
INFINITY, MINUS_INFINITY = mpf("inf"), mpf("-inf")


@dataclass(frozen=True)
class Interval:
    """The numbers from `low` to `high`; an end belongs to it if it is closed."""

    low: Bound
    low_closed: bool
    high: Bound
    high_closed: bool

    def key(self) -> str:
        """`[0;1)`; a single point is its own list."""
        opening, closing = "[" if self.low_closed else "(", "]" if self.high_closed else ")"
        return f"{opening}{_bound_key(self.low)};{_bound_key(self.high)}{closing}"


def _bound_key(bound: Bound) -> str:
    if isinstance(bound, str):
        return bound
    if not isinstance(bound, Fraction) and mpmath.isinf(bound):
        return "oo" if bound > 0 else "-oo"
    return number_key(bound)


def _place(bound: Bound) -> mpf:
    if isinstance(bound, str):
        raise Unreadable("an interval between expressions")
    return bound if not isinstance(bound, Fraction) else real(bound)


def union_key(intervals: Sequence[Interval]) -> str:
    """The key of a union: sorted, with touching and overlapping intervals joined; points in a list.

    A single interval keeps its ends as they are: `(5, 1)` may be a point of the plane.
    """
    if len(intervals) == 1:
        return intervals[0].key()
    pieces = [piece for piece in intervals if not _is_empty(piece)]
    pieces.sort(key=lambda i: (_place(i.low), not i.low_closed, _place(i.high)))
    merged: list[Interval] = []
    for piece in pieces:
        if merged and _touch(merged[-1], piece):
            merged[-1] = _joined(merged[-1], piece)
        else:
            merged.append(piece)
    if all(_place(piece.low) == _place(piece.high) for piece in merged):
        return keys.listed([_bound_key(piece.low) for piece in merged])
    return "U".join(piece.key() for piece in merged)


def intersection(a: Interval, b: Interval) -> Interval:
    """What two intervals share; raises Unreadable if that is nothing."""
    low = max(a, b, key=lambda i: (_place(i.low), not i.low_closed))
    high = min(a, b, key=lambda i: (_place(i.high), i.high_closed))
    shared = Interval(low.low, low.low_closed, high.high, high.high_closed)
    if _is_empty(shared):
        raise Unreadable("an inequality without solutions")
    return shared


def _is_empty(piece: Interval) -> bool:
    low, high = _place(piece.low), _place(piece.high)
    return low > high or (low == high and not (piece.low_closed and piece.high_closed))


def _touch(a: Interval, b: Interval) -> bool:
    end, start = _place(a.high), _place(b.low)
    return start < end or (start == end and (a.high_closed or b.low_closed))


def _joined(a: Interval, b: Interval) -> Interval:
    last = max(a, b, key=lambda i: (_place(i.high), i.high_closed))
    return Interval(a.low, a.low_closed, last.high, last.high_closed)
