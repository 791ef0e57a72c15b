r"""The tokens of an answer: LaTeX and plain notation alike, without layout.

One pass, linear in the text. What only places or sizes things (`\left`, `\,`, `$`, fonts) is gone; what says
the same is written the same (`\dfrac` and `\frac`; `\leq`, `<=` and `≤`; `\lvert` and `|`).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

Kind = Literal["number", "letter", "word", "command", "sign"]


class Unreadable(ValueError):
    """The text is not of the mathematics that this parser knows. Its message names what was not."""


class NotMathematics(Unreadable):
    """The text is words, or too large to compute: no other parser should be asked."""


@dataclass(frozen=True, slots=True)
class Token:
    r"""text: digits of a number, a letter, a word, a command's name, or a sign.

    space: white space came before. upright: it came from `\text{...}` or the like.
    """

    kind: Kind
    text: str
    space: bool = False
    upright: bool = False


def names(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


FUNCTIONS = names("sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh ln log lg exp max min gcd lcm")
GREEK = names(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho varrho "
    "sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell"
)
# Commands kept under their own name.
_KEPT = FUNCTIONS | GREEK | names("frac sqrt binom pi infty circ overline angle triangle mathbb mod dot ddot partial")
# Commands that are a sign, and commands that are another command.
_SIGN_OF = {
    "le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">",
    "ne": "!=", "neq": "!=", "approx": "~", "simeq": "~", "thickapprox": "~",
    "Rightarrow": "=>", "implies": "=>", "Longrightarrow": "=>", "cdot": "*", "times": "*", "ast": "*",
    "div": "/", "pm": "+-", "mp": "-+", "in": "in", "cup": "cup", "emptyset": "empty", "varnothing": "empty",
    "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "colon": ":", "lbrace": r"\{", "rbrace": r"\}",
    "langle": "(", "rangle": ")", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "lfloor": "floor",
    "rfloor": "end floor", "lceil": "ceil", "rceil": "end ceil", "percent": "%", "prime": "'",
}  # fmt: skip
_SAME_AS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom",
    "overrightarrow": "overline", "bar": "overline",
    "degree": "circ", "arcctg": "arccot", "tg": "tan", "ctg": "cot", "cosec": "csc",
    "pmod": "mod", "bmod": "mod",
}  # fmt: skip
_UPRIGHT = names("text textrm textbf textit textsf texttt textnormal textup mbox hbox mathrm operatorname rm")
_LAYOUT = names(
    "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle textstyle "
    "scriptstyle limits nolimits mathbf boldsymbol bm mathit mathsf mathtt mathcal vec hat bf it boxed fbox "
    "ensuremath negthinspace underline therefore because large Large small"
)
_NO_ANSWER = names("color textcolor tag label hspace vspace phantom hphantom vphantom cite ref")
_ALIGNED = names("aligned align equation gather gathered split")
_SPACES = names("quad qquad enspace thinspace medspace thickspace space nobreakspace")
_COMMANDS = _KEPT | _SIGN_OF.keys() | _SAME_AS.keys() | _UPRIGHT | _LAYOUT | _SPACES | {"begin", "end"}
_BY_LENGTH = sorted(_COMMANDS, key=len, reverse=True)
_PLAIN = {name: name for name in FUNCTIONS | {"sqrt", "pi"}} | {"infinity": "infty", "inf": "infty", "oo": "infty"}

_SIGNS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": "*", "⋅": "*", "·": "*", "∙": "*", "∗": "*", "÷": "/",
    "⁄": "/", "∕": "/", "≤": "<=", "≥": ">=", "⩽": "<=", "⩾": ">=", "≠": "!=", "≈": "~", "∪": "cup", "∈": "in",
    "∅": "empty", "±": "+-", "∓": "-+", "′": "'", "’": "'", "⟨": "(", "⟩": ")",
}  # fmt: skip
_SYMBOLS = {
    "π": "pi", "∞": "infty", "∠": "angle", "√": "sqrt", "θ": "theta", "α": "alpha", "β": "beta", "γ": "gamma",
    "δ": "delta", "λ": "lambda", "μ": "mu", "φ": "phi", "ϕ": "phi", "ω": "omega", "σ": "sigma", "ρ": "rho",
}  # fmt: skip
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))
_VULGAR = {"½": "12", "⅓": "13", "⅔": "23", "¼": "14", "¾": "34", "⅕": "15", "⅙": "16", "⅛": "18"}
_INVISIBLE = frozenset("\0\u200b\u200c\u200d\u2060\u2061\u2062\u2063\u2064\ufeff")
_BLANK = frozenset(" \t\n\r\f\v~\u00a0\u2009\u202f\u2003\u3000")
_CURRENCY = frozenset("$€£¥₹")
_PAIRS = ("<=", ">=", "!=", "**")

_THOUSANDS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])")
_RUN = re.compile(r"[0-9]+(?:,[0-9]+)+")
_LATEX_THOUSANDS = re.compile(r"[0-9]{1,3}(?:(?: ?\{ ?, ?\} ?|,\\! ?)[0-9]{3})+(?![0-9])")
_SPACED_THOUSANDS = re.compile(r"[0-9]{1,3}(?:(?: |\\,|\\ |\u00a0|\u202f|\u2009)[0-9]{3})+(?![0-9])")
_DECIMAL = re.compile(
    r"(?:[0-9]+(?:\.[0-9]+|\.(?=\\(?:overline|bar)))?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4}(?![0-9a-zA-Z.]))?"
)
_TIMES_TEN = re.compile(r"(?<=[0-9]) ?[xX] ?(?=10(?:\^|\*\*))")  # 3.85 x 10^9
_FRACTIONAL = re.compile(r"\.[0-9]+")
_LETTERS = re.compile(r"[a-zA-Z]+")
_COMMAND = re.compile(r"\\(?:(?:begin|end)\s*\{)?[a-zA-Z]+")
_ARGUMENT = re.compile(r"\s*\{([^{}]*)\}")
_ENVIRONMENT = re.compile(r"\s*\{\s*([a-zA-Z]+)\*?\s*\}(?:\s*\[[a-z]\])?(?:\s*\{[lcr|\s]*\})?")


def tokenize(text: str) -> list[Token]:
    r"""The tokens of an answer. Raises Unreadable for a character or a command that is not known.

    Thousands are joined outside brackets alone (`1,000` is a number, `(1,000)` a pair), unless LaTeX says
    that the comma is none (`1{,}000`, `1,\!000`).
    """
    plain = text if text.isascii() else "".join(map(_plain, text))
    return _Tokenizer(_TIMES_TEN.sub(" * ", plain)).run()


def _plain(char: str) -> str:
    """Letters and digits of other shapes (fullwidth, bold, Arabic-Indic) as ASCII; all else as it is."""
    if char.isascii() or char == "ℝ" or char in _SUPERSCRIPTS or char in _VULGAR or char in _SYMBOLS:
        return char
    digit = unicodedata.decimal(char, None)
    same = unicodedata.normalize("NFKC", char) if digit is None else str(digit)
    return same if len(same) == 1 and same.isascii() else char


class _Tokenizer:
    def __init__(self, text: str, upright: bool = False) -> None:
        self.text, self.upright = text, upright
        self.tokens: list[Token] = []
        self.at = self.depth = 0
        self.space = False
        # In a matrix two backslashes end a row; elsewhere they are one, escaped twice.
        self.rows = r"\begin" in text
        self.aligned = False

    def add(self, kind: Kind, text: str) -> None:
        self.tokens.append(Token(kind, text, self.space, self.upright))
        self.space = False

    def run(self) -> list[Token]:
        text, size = self.text, len(self.text)
        while self.at < size:
            char = text[self.at]
            if char in _BLANK:
                self.space = True
                self.at += 1
            elif char in "0123456789" or (char == "." and _FRACTIONAL.match(text, self.at)):
                self.number()
            elif char == "\\":
                self.backslash()
            elif char.isascii() and char.isalpha():
                self.letters()
            elif char in "+-*/^_!'|=<>,;:()[]{}&%.":
                self.sign(char)
            else:
                self.other(char)
        return self.tokens

    def number(self) -> None:
        grouped = _LATEX_THOUSANDS.match(self.text, self.at)
        if grouped is None and not self.rows:
            grouped = _SPACED_THOUSANDS.match(self.text, self.at)
            # Of 27,54,108 no part is grouped: all of it is, or every comma separates.
            run = _RUN.match(self.text, self.at)
            started = self.at > 1 and self.text[self.at - 1] == "," and self.text[self.at - 2].isdigit()
            if grouped is None and self.depth == 0 and run is not None and not started:
                grouped = _THOUSANDS.fullmatch(run[0])
                grouped = grouped and _THOUSANDS.match(self.text, self.at)
        if grouped is None:
            match = _DECIMAL.match(self.text, self.at)
            assert match is not None  # `run` saw a digit
            digits = match[0]
            self.at = match.end()
        else:
            digits = "".join(filter(str.isdigit, grouped[0]))
            fraction = _FRACTIONAL.match(self.text, grouped.end())
            digits += fraction[0] if fraction else ""
            self.at = fraction.end() if fraction else grouped.end()
        self.add("number", digits)

    def letters(self) -> None:
        match = _LETTERS.match(self.text, self.at)
        assert match is not None
        self.at = match.end()
        if match[0] in _PLAIN:
            self.add("command", _PLAIN[match[0]])
        else:
            self.add("letter" if len(match[0]) == 1 else "word", match[0])

    def sign(self, char: str) -> None:
        pair = self.text[self.at : self.at + 2]
        if pair == "..":
            raise Unreadable("a list with dots")
        if self.text.startswith("+/-", self.at):
            self.add("sign", "+-")
            self.at += 3
            return
        # `3!=6` is a factorial and an equation; `x != 5` a relation.
        if pair in _PAIRS and not (pair == "!=" and self.tokens and self.tokens[-1].kind == "number"):
            self.add("sign", "^" if pair == "**" else pair)
            self.at += 2
            return
        self.depth += (char in "([") - (char in ")]")
        if not (char == "&" and self.aligned):
            self.add("sign", char)
        self.at += 1

    def other(self, char: str) -> None:
        self.at += 1
        if char in _SIGNS:
            self.add("sign", _SIGNS[char])
        elif char == "ℝ":
            self.add("command", "mathbb")
            self.add("letter", "R")
        elif char == "°":
            self.add("sign", "^")
            self.add("command", "circ")
        elif char == "√" and (radicand := _DECIMAL.match(self.text, self.at)):
            self.add("command", "sqrt")
            for kind, text in (("sign", "{"), ("number", radicand[0]), ("sign", "}")):
                self.add("number" if kind == "number" else "sign", text)
            self.at = radicand.end()
        elif char in _SYMBOLS:
            self.add("command", _SYMBOLS[char])
        elif char in "²³" and self.measures():
            self.tokens[-1] = Token("word", self.tokens[-1].text, self.tokens[-1].space, upright=True)
        elif char in _SUPERSCRIPTS:
            end = self.at
            while end < len(self.text) and self.text[end] in _SUPERSCRIPTS:
                end += 1
            digits = "".join(_SUPERSCRIPTS[c] for c in self.text[self.at - 1 : end])
            if not digits.lstrip("-").isdigit():
                raise Unreadable("a superscript that is no number")
            self.add("sign", "^")
            if digits[0] == "-":
                self.add("sign", "-")
            self.add("number", digits.lstrip("-"))
            self.at = end
        elif char in _VULGAR:
            self.add("command", "frac")
            for digit in _VULGAR[char]:
                self.add("number", digit)
        elif char.isalpha():
            self.add("word", char)
        elif char not in _INVISIBLE and char not in _CURRENCY:
            raise Unreadable(f"character {char!r}")

    def measures(self) -> bool:
        """Whether an `m` after a number was the last token: the unit of 5 m²."""
        return len(self.tokens) > 1 and self.tokens[-1].text == "m" and self.tokens[-2].kind == "number"

    def backslash(self) -> None:
        follows = self.text[self.at + 1 : self.at + 2]
        if follows == "\\":
            if self.rows:
                self.add("sign", "," if self.aligned else r"\\")
                self.at += 2
            else:
                self.at += 1
        elif follows in ("{", "}"):
            self.depth += 1 if follows == "{" else -1
            self.add("sign", "\\" + follows)
            self.at += 2
        elif follows == "|":
            self.add("sign", "|")
            self.at += 2
        elif follows == "%":
            self.add("sign", "%")
            self.at += 2
        elif follows.isascii() and follows.isalpha():
            self.command()
        else:
            # `\,` and its like are space; `\!` is none; a backslash that lost its space stands before `-18`.
            self.space = self.space or follows in (",", ";", ":", " ", ">")
            self.at += 2 if follows in tuple(",;: >!$&#()[]") else 1

    def command(self) -> None:
        match = _LETTERS.match(self.text, self.at + 1)
        assert match is not None
        name = match[0]
        if name.endswith("dots"):
            raise Unreadable("a list with dots")
        if name in _NO_ANSWER:  # \color{red}, \tag{1}: the command and its argument
            argument = _ARGUMENT.match(self.text, self.at + 1 + len(name))
            self.at = argument.end() if argument else self.at + 1 + len(name)
            return
        if name not in _COMMANDS:  # `\cotx` for `\cot x`: the longest command that it begins with
            name = next((known for known in _BY_LENGTH if name.startswith(known)), name)
        self.at += 1 + len(name)
        name = _SAME_AS.get(name, name)
        if name in _KEPT:
            self.add("command", name)
        elif name in _SIGN_OF:
            sign = _SIGN_OF[name]
            self.depth += (sign in ("(", "[", r"\{")) - (sign in (")", "]", r"\}"))
            self.add("sign", sign)
        elif name in _UPRIGHT:
            self.upright_text()
        elif name in ("quad", "qquad") and self.depth == 0:
            self.add("sign", ",")  # between the items of a list; otherwise an empty item, which is dropped
        elif name in _SPACES:
            self.space = True
        elif name in ("begin", "end"):
            environment = _ENVIRONMENT.match(self.text, self.at)
            if environment is None:
                raise Unreadable(f"\\{name} without an environment")
            self.at = environment.end()
            if environment[1] in _ALIGNED or (
                environment[1] == "cases" and "&" not in self.text
            ):  # its rows are a list
                self.aligned = name == "begin"
            else:
                self.add("sign", f"{name} {environment[1]}")
        elif name not in _LAYOUT:
            raise Unreadable(f"command \\{name}")
        elif name in ("left", "right") and self.text[self.at : self.at + 1] == ".":
            self.at += 1  # the delimiter that is not drawn

    def upright_text(self) -> None:
        argument = _ARGUMENT.match(self.text, self.at)
        if argument is None:
            return  # its letters follow as they are
        inner = _Tokenizer(argument[1], upright=True)
        inner.space = self.space or argument[1][:1].isspace()
        self.tokens += inner.run()
        self.space = argument[1][-1:].isspace()
        self.at = argument.end()


def has_words(text: str) -> bool:
    r"""Whether letters stand in a row outside commands, as in prose: `the`, `\text{cm}`, but not `ab`."""
    return any(len(word) > 3 for word in _LETTERS.findall(_COMMAND.sub(" ", text)))
