"""Values of expressions: exact rationals, other numbers to 30 digits, functions by their values at points.

Two expressions are equal if and only if they have the same value wherever both are defined. So an expression
with variables is evaluated at `POINTS` fixed, irregular points, with `DIGITS` digits, and its key is a digest
of the values: equal expressions then have equal keys however they are written, and different ones differ
but by accident (Schwartz 1980, Zippel 1979). This is symmetric and transitive, which simplifying a
difference is not, and its cost is bounded by the length of the expression.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from typing import TypeAlias

import mpmath
from mpmath import mp, mpc, mpf

from ttrl_repro.answers.tokens import NotMathematics, Unreadable

Number: TypeAlias = Fraction | mpf | mpc
Values: TypeAlias = tuple[Number, ...]  # one at every point; a single one where no variable is involved

DIGITS = 60  # of the arithmetic
KEPT = 30  # of a key
POINTS = 5
_BITS = 1 << 15  # of an exact numerator or denominator
_WRITTEN = 1024  # bits of a number that is its own key
_MAGNITUDE = 2048  # of a number, as a power of two: beyond it, nothing is computed
_DENOMINATOR = 10**6  # of a rational that an irrational-looking computation is taken to have meant

mp.dps = DIGITS
_TINY = mpf(10) ** -(DIGITS - 20)


def point(name: str) -> Values:
    """The values of a variable at the points.

    Positive at the first two. At each of the others one third of all names is negative (by the last
    letter's place in the alphabet, so that neighbours differ): `|x|` is then not `x`, while `sqrt(ab)` stays
    `sqrt(a) sqrt(b)`, for no two of three neighbours are negative together.
    """
    values = []
    for index in range(POINTS):
        digest = hashlib.sha256(f"{index}/{name}".encode()).digest()
        magnitude = mpf(int.from_bytes(digest, "big")) / mpf(2) ** 256
        magnitude = 1 + magnitude if index == 0 else mpf(1) / 4 + magnitude / 2
        values.append(-magnitude if index >= 2 and ord(name[-1]) % 3 == index - 2 else magnitude)
    return tuple(values)


def checked(value: Number) -> Number:
    """The value itself. Raises Unreadable for one too large to compute with, and for infinities and NaN."""
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > _BITS:
            raise NotMathematics("number too large")
        return value
    parts = (value.real, value.imag) if isinstance(value, mpc) else (value,)
    for part in parts:
        if not mpmath.isfinite(part):
            raise Unreadable("not a number")
        if part and mpmath.mag(part) > _MAGNITUDE:
            raise NotMathematics("number too large")
    return value


def real(value: Number) -> mpf:
    """As a real number with all digits. Raises Unreadable if it has an imaginary part."""
    if isinstance(value, Fraction):
        return mpf(value.numerator) / value.denominator
    if isinstance(value, mpc):
        if abs(value.imag) > _TINY * max(1, abs(value.real)):
            raise Unreadable("complex where a real number is needed")
        return value.real
    return value


def as_mp(value: Number) -> mpf | mpc:
    """As a number of mpmath."""
    return real(value) if isinstance(value, Fraction) else value


def minus(a: Number, b: Number) -> Number:
    """a - b, exact where both are."""
    return a - b if isinstance(a, Fraction) and isinstance(b, Fraction) else as_mp(a) - as_mp(b)


def rational(value: Number) -> Fraction | None:
    """The rational that a value is: exactly, or to all its digits with a small denominator; else None."""
    if isinstance(value, Fraction):
        return value
    if isinstance(value, mpc):
        if abs(value.imag) > _TINY * max(1, abs(value.real)):
            return None
        value = value.real
    if abs(value) > mpf(2) ** 100:
        return None
    scaled = Fraction(int(mpmath.nint(value * mpf(2) ** 190)), 2**190)
    near = scaled.limit_denominator(_DENOMINATOR)
    return near if abs(real(near) - value) <= _TINY * max(1, abs(value)) else None


def number_key(value: Number) -> str:
    """Key of a number: `25`, `-1/2`, `~1.4142...`, `0+~1.732...i`."""
    exact = rational(value)
    if exact is not None:
        return rational_key(exact)
    if isinstance(value, mpc) and abs(value.imag) > _TINY * max(1, abs(value.real)):
        re, im = (_real_key(mpf(0) if abs(part) < _TINY else part) for part in (value.real, value.imag))
        return f"{re}+{im}i"
    return _real_key(real(value))


def rational_key(value: Fraction) -> str:
    """`25`, `-1/2`; a digest of one that has hundreds of digits."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) <= _WRITTEN:
        return str(value)
    return "q:" + digest([hex(value.numerator), hex(value.denominator)])


def _real_key(value: mpf) -> str:
    exact = rational(value)
    return rational_key(exact) if exact is not None else "~" + mpmath.nstr(value, KEPT, strip_zeros=False)


def values_key(values: Values) -> str:
    """Key of an expression: of its number if it is constant, else `fn:` and a digest of its values."""
    keys = [number_key(value) for value in values]
    if len(set(keys)) == 1:
        return keys[0]
    return "fn:" + digest(keys)


def multiple_key(values: Values, signed: bool) -> str:
    """Key of an expression up to a factor (if `signed`, a positive one), as the two sides of a relation allow."""
    if len(values) == 1:
        raise Unreadable("a relation between constants")
    scale = next((v for v in values if as_mp(v) != 0), None)
    if scale is None:
        return "0"
    scale = abs(as_mp(scale)) if signed else as_mp(scale)
    return digest([number_key(as_mp(value) / scale) for value in values])


def digest(parts: list[str]) -> str:
    """64 bits of a hash, in hexadecimal."""
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
