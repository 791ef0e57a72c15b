r"""From tokens to the value of one expression: `2\sqrt{3}`, `\frac{x}{7} + 1`, `1\frac{1}{2}`, `\log_2 8`.

A recursive-descent parser that computes as it reads. It knows the mathematics that final answers are made
of; for everything else (sums, integrals, limits ...) it raises `Unreadable` and math-verify is asked.
Depth, exponents and magnitudes are bounded, so its time is too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import mpmath
from mpmath import mpf

from ttrl_repro.answers.tokens import FUNCTIONS, GREEK, NotMathematics, Token, Unreadable
from ttrl_repro.answers.values import POINTS, Number, Values, as_mp, checked, digest, number_key, point, rational, real

_DEPTH = 60
_MOST_FACTORIAL = 3000
_END = Token("sign", "")
_OPENING = {"(": ")", "[": "]", "{": "}", r"\{": r"\}", "floor": "end floor", "ceil": "end ceil"}
# Letters that stand beside each other as a product, not as a word or a unit.
_PRODUCTS = ("abcdef", "klmn", "pqrst", "uvwxyz", "xyzabckmnrhe")
_APPLIED = frozenset("fghFGHP")  # letters before a parenthesis that name functions


def evaluate(tokens: Sequence[Token], signs: Sequence[int] = ()) -> Values:
    r"""The values of an expression (see `values`). Raises Unreadable.

    signs: +1 or -1 for every `\pm` in reading order (`\mp` takes the opposite).
    """
    parser = _Parser(tokens, signs)
    try:
        value = parser.sum()
    except (ArithmeticError, ValueError, TypeError, RecursionError, mpmath.libmp.NoConvergence) as error:
        raise error if isinstance(error, Unreadable) else Unreadable(str(error)) from error
    if parser.peek() is not _END:
        raise Unreadable(f"{parser.peek().text!r} after an expression")
    return value


def is_product(word: str) -> bool:
    """Whether letters in a row, alone, are a product of variables rather than a word: `xy`, `abc`, not `cm`."""
    low = word.lower()
    return len(set(low)) == len(low) and any(all(c in letters for c in low) for letters in _PRODUCTS)


def _letters(tokens: Sequence[Token]) -> list[Token]:
    """With the letters of a product as tokens of their own: a power or a subscript holds for the last alone.

    Within an expression up to three letters are a product (`mgh`, `2at`), and more if they look like one.
    """
    found: list[Token] = []
    for token in tokens:
        after_subscript = bool(found) and found[-1].kind == "sign" and found[-1].text == "_"
        short = 2 if after_subscript else 3
        if token.kind == "word" and not token.upright and (len(token.text) <= short or is_product(token.text)):
            found += [Token("letter", char, token.space and not i) for i, char in enumerate(token.text)]
        else:
            found.append(token)
    return found


def _each(function: Callable[..., Number], *arguments: Values) -> Values:
    """A function of numbers, at every point. A value that is not defined at a point is Unreadable."""
    size = max(map(len, arguments))
    columns = [a * size if len(a) == 1 else a for a in arguments]
    return tuple(checked(function(*row)) for row in zip(*columns, strict=True))


class _Parser:
    def __init__(self, tokens: Sequence[Token], signs: Sequence[int]) -> None:
        self.tokens, self.signs = _letters(tokens), list(signs)
        self.at = self.depth = self.bars = 0
        self.degrees = False  # inside a trigonometric function, where a degree is pi/180

    # -- reading ---------------------------------------------------------------------------------

    def peek(self, ahead: int = 0) -> Token:
        index = self.at + ahead
        return self.tokens[index] if index < len(self.tokens) else _END

    def next(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def sees(self, *signs: str) -> bool:
        token = self.peek()
        return token.kind == "sign" and token.text in signs

    def expect(self, sign: str) -> None:
        if not self.sees(sign):
            raise Unreadable(f"{self.peek().text!r} where {sign!r} should be")
        self.at += 1

    # -- grammar ---------------------------------------------------------------------------------

    def sum(self) -> Values:
        self.depth += 1
        if self.depth > _DEPTH:
            raise NotMathematics("nested too deeply")
        value = self.product()
        while self.sees("+", "-", "+-", "-+"):
            sign = self.sign_of(self.next().text)
            value = _each(lambda a, b, s=sign: _add(a, s * b), value, self.product())
        self.depth -= 1
        return value

    def sign_of(self, text: str) -> int:
        if text in ("+", "-"):
            return 1 if text == "+" else -1
        if not self.signs:
            raise Unreadable("a plus-minus that stands for two values")
        sign = self.signs.pop(0)
        return sign if text == "+-" else -sign

    def product(self) -> Values:
        sign = 1
        while self.sees("+", "-", "+-", "-+"):
            sign *= self.sign_of(self.next().text)
        value = self.power()
        while True:
            if self.sees("*"):
                self.at += 1
                value = _each(_multiply, value, self.factor())
            elif self.sees("/"):
                self.at += 1
                value = _each(_divide, value, self.factor())
            elif self.starts_factor():
                value = _each(_multiply, value, self.power())
            else:
                return _each(lambda a: -a, value) if sign < 0 else value

    def factor(self) -> Values:
        """A factor after a sign of operation, which may have a sign of its own: `2 * -3`."""
        sign = 1
        while self.sees("+", "-"):
            sign *= 1 if self.next().text == "+" else -1
        value = self.power()
        return _each(lambda a: -a, value) if sign < 0 else value

    def starts_factor(self) -> bool:
        token = self.peek()
        if token.kind in ("letter", "command"):
            return token.text not in ("mod", "circ", "angle", "triangle")
        if token.kind == "number":  # a number stands after letters and brackets, not after a number
            before = self.tokens[self.at - 1]
            return before.kind == "sign" and before.text in (")", "}", "|", "!")
        return token.text in ("(", "[", "{", "floor", "ceil") or (token.text == "|" and not self.bars)

    def power(self) -> Values:
        base = self.postfix()
        if not self.sees("^"):
            return base
        self.at += 1
        if self.degree_sign():
            return _each(lambda a: _multiply(a, _degree()), base) if self.degrees else base
        exponent = self.exponent()
        return _each(_power, base, exponent)

    def degree_sign(self) -> bool:
        """`\\circ`, alone or in braces, after a `^`; read if it is there."""
        if self.peek().text == "circ":
            self.at += 1
            return True
        if self.sees("{") and self.peek(1).text == "circ" and self.peek(2).text == "}":
            self.at += 3
            return True
        return False

    def exponent(self) -> Values:
        if self.sees("-", "+"):
            sign = self.sign_of(self.next().text)
            return _each(lambda a: sign * a, self.exponent())
        value = self.postfix()
        if self.sees("^"):  # 2^3^2 is 2^(3^2)
            self.at += 1
            value = _each(_power, value, self.exponent())
        return value

    def postfix(self) -> Values:
        value = self.atom()
        while True:
            if self.sees("!"):
                self.at += 1
                value = _each(_factorial, value)
            elif self.sees("%"):
                self.at += 1
                value = _each(lambda a: _divide(a, Fraction(100)), value)
            elif self.peek().text == "circ" and self.peek().kind == "command":
                self.at += 1
                value = _each(lambda a: _multiply(a, _degree()), value) if self.degrees else value
            else:
                return value

    def atom(self) -> Values:
        token = self.next()
        if token.kind == "number":
            return self.number(token)
        if token.kind == "letter":
            return self.letter(token.text)
        if token.kind == "command":
            return self.command(token.text)
        if token.kind == "sign" and token.text in ("(", "[", "{"):
            value = self.sum()
            self.expect(_OPENING[token.text])
            return value
        if token.kind == "sign" and token.text in ("floor", "ceil"):
            value = self.sum()
            self.expect(_OPENING[token.text])
            return _each(lambda a: _round(token.text, a), value)
        if token.kind == "sign" and token.text == "|":
            self.bars += 1
            value = self.sum()
            self.expect("|")
            self.bars -= 1
            return _each(abs, value)
        raise Unreadable(f"{token.text!r} where a value should be" if token.text else "nothing where a value should be")

    def number(self, token: Token) -> Values:
        value = number(token.text)
        follows = self.peek()
        if token.text.isdecimal():
            if follows.text == "frac" and self.mixed_part() is not None:
                part = self.mixed_part()
                assert part is not None
                self.at += 1
                self.argument(), self.argument()
                return (value + part,)
            after = self.peek(2)
            if (
                follows.kind == "number" and follows.space and self.peek(1).text == "/" and after.kind == "number"
            ):  # 1 1/2
                above, below = number(follows.text), number(after.text)
                if 0 < above < below:
                    self.at += 3
                    return (value + above / below,)
        if follows.text == "overline" and self.peek(1).text == "{" and self.peek(3).text == "}":
            repeating = self.peek(2).text
            if repeating.isdigit() and not follows.space:  # 0.1\overline{6}
                decimals = len(token.text.partition(".")[2])
                self.at += 4
                return (value + Fraction(int(repeating), (10 ** len(repeating) - 1) * 10**decimals),)
        return (checked(value),)

    def mixed_part(self) -> Fraction | None:
        r"""The fraction after a whole number, if it makes a mixed number: `\frac58`, `\frac{5}{8}`, below 1."""
        digits: list[str] = []
        at = self.at + 1
        for _ in range(2):
            token = self.tokens[at] if at < len(self.tokens) else _END
            if token.text == "{":
                if at + 2 >= len(self.tokens) or self.tokens[at + 2].text != "}":
                    return None
                token, at = self.tokens[at + 1], at + 3
                digits.append(token.text)
            else:
                at += 1
                if not digits and len(token.text) == 2:
                    digits += list(token.text)
                    break
                digits.append(token.text[:1])
        if len(digits) != 2 or not all(d.isdigit() for d in digits):
            return None
        above, below = map(int, digits)
        return Fraction(above, below) if 0 < above < below else None

    def letter(self, name: str) -> Values:
        named = self.peek(1).kind == "number" and self.peek(2).text == ")"  # I(0) is not I times 0
        if (name in _APPLIED or named) and self.sees("(") and not self.peek().space:
            self.at += 1
            arguments = [self.sum()]
            while self.sees(","):
                self.at += 1
                arguments.append(self.sum())
            self.expect(")")
            points: Values = tuple(Fraction(i) for i in range(POINTS))  # not a constant, even of constants
            return _each(lambda *row: _unknown_function(name, row), points, *arguments)
        return self.variable(self.subscripted(name))

    def variable(self, name: str) -> Values:
        if name == "e":
            return (mpmath.e + 0,)
        if name == "i":
            return (mpmath.mpc(0, 1),)
        return point(name)

    def subscripted(self, name: str) -> str:
        while self.sees("'") or (self.sees("^") and self.peek(1).text in ("'", "{") and self.primed()):
            if self.sees("'"):
                self.at += 1
                name += "'"
            else:
                name += self.primes()
        if self.sees("_"):
            self.at += 1
            name += "_" + "".join(token.text for token in self.argument_tokens())
        return name

    def primed(self) -> bool:
        """Whether nothing but primes stands in the exponent ahead: `^{\\prime}`."""
        at = 1
        while self.peek(at).text == "{":
            at += 1
        return self.peek(at).text == "'"

    def primes(self) -> str:
        """The primes of an exponent, read."""
        self.at += 1
        return "".join(token.text for token in self.argument_tokens())

    def argument_tokens(self) -> list[Token]:
        """The tokens of a group in braces, or the next token."""
        if not self.sees("{"):
            return [self.next()]
        self.at += 1
        depth = 1
        tokens: list[Token] = []
        while True:
            token = self.next()
            if token is _END:
                raise Unreadable("a brace that is never closed")
            depth += (token.text == "{") - (token.text == "}")
            if depth == 0:
                return tokens
            tokens.append(token)

    def argument(self) -> Values:
        r"""The argument of a command: a group, or a single digit or letter (`\frac12`, `\sqrt2`)."""
        if self.sees("{"):
            self.at += 1
            value = self.sum()
            self.expect("}")
            return value
        token = self.peek()
        if token.kind == "number" and token.text.isdigit() and len(token.text) > 1:
            # LaTeX takes one digit and leaves the rest.
            rest = Token("number", token.text[1:], upright=token.upright)
            self.tokens = [*self.tokens[: self.at], Token("number", token.text[0]), rest, *self.tokens[self.at + 1 :]]
        if token.kind in ("number", "letter") or token.text in ("pi", *GREEK):
            self.at += 1
            return (number(self.tokens[self.at - 1].text),) if token.kind == "number" else self.symbol(token)
        if token.kind == "command":
            return self.atom()
        raise Unreadable(f"{token.text!r} where an argument should be")

    def symbol(self, token: Token) -> Values:
        return (mpmath.pi + 0,) if token.text == "pi" else self.variable(token.text)

    def derivative(self) -> Values | None:
        r"""`\frac{dy}{dx}` as a name of its own, for the value of a derivative is not known; None if it is none."""
        start = self.at
        if not self.sees("{"):
            return None
        above = self.argument_tokens()
        below = self.argument_tokens() if self.sees("{") else []
        if all(part and part[0].text in ("d", "partial") for part in (above, below)) and len(below) > 1:
            return self.variable("/".join("".join(token.text for token in part) for part in (above, below)))
        self.at = start
        return None

    def command(self, name: str) -> Values:
        if name == "pi":
            return (mpmath.pi + 0,)
        if name in GREEK:
            return self.variable(self.subscripted(name))
        if name == "frac":
            derivative = self.derivative()
            if derivative is not None:
                return derivative
            above = self.argument()
            return _each(_divide, above, self.argument())
        if name == "partial":
            return self.variable("partial")
        if name == "binom":
            above = self.argument()
            return _each(_binomial, above, self.argument())
        if name == "sqrt":
            return self.root()
        if name in ("overline", "dot", "ddot"):  # a segment, a vector, a derivative: a name
            return self.variable(name + "_" + "".join(token.text for token in self.argument_tokens()))
        if name in FUNCTIONS:
            return self.function(name)
        raise Unreadable(f"command {name}")

    def root(self) -> Values:
        degree: Values = (Fraction(2),)
        if self.sees("["):
            self.at += 1
            degree = self.sum()
            self.expect("]")
        if self.sees("("):
            self.at += 1
            value = self.sum()
            self.expect(")")
        else:
            value = self.argument()
        return _each(lambda a, n: _power(a, _divide(Fraction(1), n)), value, degree)

    def function(self, name: str) -> Values:
        base: Values | None = None
        exponent: Values | None = None
        while self.sees("^", "_"):
            if self.next().text == "_":
                if name != "log":
                    raise Unreadable(f"a subscript of {name}")
                base = self.argument()
            else:
                exponent = self.argument() if self.sees("{") else self.exponent()
        trigonometric = name[-3:] in ("sin", "cos", "tan", "cot", "sec", "csc") and not name.startswith("arc")
        outer, self.degrees = self.degrees, trigonometric
        arguments = self.function_arguments()
        self.degrees = outer
        if name in ("max", "min", "gcd", "lcm"):
            value = _each(lambda *row: _chosen(name, row), *arguments)
        elif len(arguments) != 1:
            raise Unreadable(f"{name} of {len(arguments)} arguments")
        elif base is not None:
            value = _each(lambda a, b: mpmath.log(as_mp(a)) / mpmath.log(as_mp(b)), arguments[0], base)
        else:
            value = _each(lambda a: _apply(name, a), arguments[0])
        if exponent is None:
            return value
        if exponent == (Fraction(-1),) and trigonometric:  # \sin^{-1} is the inverse function
            return _each(lambda a: _apply("arc" + name, a), arguments[0])
        return _each(_power, value, exponent)

    def function_arguments(self) -> list[Values]:
        if self.sees("(", "{"):
            closing = _OPENING[self.next().text]
            arguments = [self.sum()]
            while self.sees(","):
                self.at += 1
                arguments.append(self.sum())
            self.expect(closing)
            return arguments
        # \sin 2x: factors side by side, up to a sign or another function.
        value = self.power()
        while self.starts_factor() and self.peek().text not in FUNCTIONS and not self.sees("(", "["):
            value = _each(_multiply, value, self.power())
        return [value]


def number(digits: str) -> Fraction:
    """An exact number from the digits of a token: `12`, `.5`, `1.5e-3`."""
    if len(digits) > 1000:
        raise NotMathematics("number too long")
    return Fraction(("0" + digits).removesuffix("."))


def _add(a: Number, b: Number) -> Number:
    return a + b if isinstance(a, Fraction) and isinstance(b, Fraction) else as_mp(a) + as_mp(b)


def _multiply(a: Number, b: Number) -> Number:
    return a * b if isinstance(a, Fraction) and isinstance(b, Fraction) else as_mp(a) * as_mp(b)


def _divide(a: Number, b: Number) -> Number:
    if rational(b) == 0:
        raise Unreadable("division by zero")
    return a / b if isinstance(a, Fraction) and isinstance(b, Fraction) else as_mp(a) / as_mp(b)


def _power(base: Number, exponent: Number) -> Number:
    """base ** exponent; exact where it is rational, real where a real root of a negative number exists."""
    exact = rational(exponent)
    if isinstance(base, Fraction) and exact is not None:
        if base == 0:
            if exact <= 0:
                raise Unreadable("zero to a power that is not positive")
            return Fraction(0)
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if exact.denominator == 1 and (abs(exact) * bits <= 1 << 15 or abs(base) == 1):
            return base ** int(exact)
        if exact.denominator > 1:
            rooted = _exact_root(base, exact.denominator)
            if rooted is not None:
                return _power(rooted, Fraction(exact.numerator))
    value = as_mp(base)
    if exact is not None and exact.denominator > 1 and exact.denominator % 2 and _is_negative(value):
        root = -mpmath.power(-real(base), mpf(1) / exact.denominator)
        return root**exact.numerator if abs(exact.numerator) < 1000 else mpmath.power(root, exact.numerator)
    if value == 0:
        return _power(Fraction(0), exponent)
    size = abs(mpmath.log(abs(value))) * abs(as_mp(exponent))
    if size > 1400:  # as a power of e; more than 2 ** 2000
        raise NotMathematics("power too large")
    return mpmath.power(value, exact.numerator if exact is not None and exact.denominator == 1 else as_mp(exponent))


def _is_negative(value: mpmath.mpf | mpmath.mpc) -> bool:
    return not isinstance(value, mpmath.mpc) and value < 0


def _exact_root(base: Fraction, degree: int) -> Fraction | None:
    """The rational root of a rational number, if it has one; of a negative number only for an odd degree."""
    if degree > 64 or (base < 0 and degree % 2 == 0):
        return None
    roots = []
    for part in (abs(base.numerator), base.denominator):
        root = math.isqrt(part) if degree == 2 else int(mpmath.nint(mpmath.root(part, degree)))
        if root**degree != part:
            return None
        roots.append(root)
    found = Fraction(roots[0], roots[1])
    return -found if base < 0 else found


def _factorial(value: Number) -> Number:
    exact = rational(value)
    if exact is None or exact.denominator > 1 or exact < 0:
        if isinstance(value, Fraction):
            raise Unreadable("factorial of what is not a natural number")
        return mpmath.gamma(as_mp(value) + 1)
    if exact > _MOST_FACTORIAL:
        raise NotMathematics("factorial too large")
    return Fraction(math.factorial(int(exact)))


def _binomial(n: Number, k: Number) -> Number:
    if (
        isinstance(n, Fraction)
        and isinstance(k, Fraction)
        and n.denominator == k.denominator == 1
        and k >= 0
        and n >= 0
    ):
        if n > 10**6 or min(k, abs(n - k)) > _MOST_FACTORIAL:
            raise NotMathematics("binomial too large")
        return Fraction(math.comb(int(n), int(k)))
    if max(abs(as_mp(n)), abs(as_mp(k))) > 10**6:
        raise NotMathematics("binomial too large")
    return mpmath.binomial(as_mp(n), as_mp(k))


def _round(name: str, value: Number) -> Number:
    exact = rational(value)
    if exact is not None:
        return Fraction(math.floor(exact) if name == "floor" else math.ceil(exact))
    return Fraction(int(mpmath.floor(real(value)) if name == "floor" else mpmath.ceil(real(value))))


def _degree() -> mpf:
    return mpmath.pi / 180


def _apply(name: str, value: Number) -> Number:
    x = as_mp(value)
    if x and mpmath.mag(x) > 1024:
        raise NotMathematics(f"argument of {name} too large")
    if name in ("exp", "sinh", "cosh", "tanh") and abs(x) > 1400:
        raise NotMathematics(f"argument of {name} too large")
    if name in ("ln", "log"):
        return mpmath.log(x)
    if name == "lg":
        return mpmath.log(x) / mpmath.log(10)
    names = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot"}
    return getattr(mpmath, names.get(name, name))(x)  # the name is one of FUNCTIONS


def _chosen(name: str, row: Sequence[Number]) -> Number:
    if name in ("max", "min"):
        pick = max if name == "max" else min
        return pick(row, key=real)
    exact = [rational(value) for value in row]
    if any(value is None or value.denominator > 1 for value in exact):
        raise Unreadable(f"{name} of what is not an integer")
    return Fraction((math.gcd if name == "gcd" else math.lcm)(*[int(value) for value in exact if value is not None]))


def _unknown_function(name: str, row: Sequence[Number]) -> Number:
    """A value for an unknown function: equal for equal arguments, irregular otherwise."""
    return mpf(int(digest([name, *map(number_key, row)]), 16)) / mpf(2) ** 63
