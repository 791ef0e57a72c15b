"""What stands behind a number: units, percent signs, magnitudes, the letters of an ordinal."""

from __future__ import annotations

from ttrl_repro.answers.cutting import Tokens, is_sign
from ttrl_repro.answers.expressions import is_product
from ttrl_repro.answers.tokens import FUNCTIONS, NotMathematics, names

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


def without_unit(tokens: Tokens) -> tuple[Tokens, bool, int]:
    """What stands before unit, percent sign, magnitude and ordinal letters; whether it is a percentage; its factor."""
    end = len(tokens)
    percent, scale = False, 1
    while end > 1:
        token, before = tokens[end - 1], tokens[end - 2]
        word = token.text.lower() if token.kind == "word" else ""
        power = _exponent(tokens[:end])
        if is_sign(token, "%") or word in _PERCENT:
            percent, end = True, end - 1
        elif word in _MAGNITUDES:
            scale, end = scale * _MAGNITUDES[word], end - 1
        elif power and _measures(tokens[: end - power[1]], power[0]):
            end -= power[1]
        elif word in _ORDINALS and before.kind == "number":
            end -= 1
        elif token.kind == "letter" and end > 3 and is_sign(before, "/") and _is_unit(tokens[: end - 2]):  # km/h
            end -= 3
        elif _is_unit(tokens[:end]) or (is_sign(token, "/", "*", ".", ",") and end < len(tokens)):
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
    if len(tokens) > 2 and is_sign(tokens[-2], "^"):
        return tokens[-1].text, 2
    if len(tokens) > 4 and is_sign(tokens[-4], "^") and is_sign(tokens[-3], "{") and is_sign(tokens[-1], "}"):
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
