"""The final answer in a model's text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Mode = Literal["math", "choice"]
How = Literal["box", "final_answer", "last_number"]

_TOKEN = re.compile(r"(?P<box>\\{1,3}(?:boxed|fbox)\s{0,5}\{)|\\.|[{}]", re.DOTALL)
_PHRASE = re.compile(
    r"(?:answer|correct (?:option|choice))\*{0,2}\s{0,3}(?:is\b|:|=)[\s*]{0,5}:?\s{0,3}",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![0-9a-zA-Z_.])-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?")
_CHOICE = re.compile(r"[(\[{\s*$]{0,8}([A-Z])[)\]}\s*$]{0,8}(?:[.:,)](?!\w)|\s|$)")
_FONT = re.compile(r"\\(?:text(?:bf|rm|it|sf|tt)?|mathrm|mathbf|mbox|left|right)\b")
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n")
_MOST_NUMBER = 400  # characters of a last number


@dataclass(frozen=True)
class Extraction:
    """answer: as written, stripped. how: what it was found by, so that fallbacks can be counted."""

    answer: str
    how: How


def boxes(text: str) -> list[tuple[int, int]]:
    r"""Spans of the contents of the complete `\boxed{...}` and `\fbox{...}` that are not empty, in order.

    Of boxes in one another the outermost counts. Braces may nest; `\{` and `\}` are text. Time is linear.
    """
    stack: list[int | None] = []  # start of the content for a box, None for another brace
    found: list[tuple[int, int]] = []
    for match in _TOKEN.finditer(text):
        token = match.group()
        if match["box"]:
            stack.append(match.end())
        elif token == "{":
            stack.append(None)
        elif token == "}" and stack:
            start = stack.pop()
            if start is not None and text[start : match.start()].strip():
                while found and found[-1][0] >= start:  # boxes close inside out
                    found.pop()
                found.append((start, match.start()))
    return found


def extract(
    text: str,
    *,
    mode: Mode = "math",
    choices: str = "ABCD",
    final_answer: bool = False,
    last_number: bool = False,
) -> str | None:
    r"""The final answer of a model's text, or None: by default the last complete `\boxed{...}` or `\fbox{...}`.

    A box that is never closed (truncated output) does not count, and neither does an empty one. See
    `extraction` for the other ways, which are off by default.

    >>> extract(r"so \boxed{\frac{1}{2}}, or \boxed{3")
    '\\frac{1}{2}'
    """
    found = extraction(text, mode=mode, choices=choices, final_answer=final_answer, last_number=last_number)
    return found.answer if found else None


def extraction(
    text: str,
    *,
    mode: Mode = "math",
    choices: str = "ABCD",
    final_answer: bool = False,
    last_number: bool = False,
) -> Extraction | None:
    """The final answer and how it was found.

    final_answer: without a box, take what follows the last "answer is" or "answer:".
    last_number: without either, take the last number of the text. The released TTRL code does, so that
    truncated outputs vote with whatever number they stopped at.
    mode `choice`: the answer is one of the letters in `choices`; a box or phrase that holds none is no answer.
    """
    found = boxes(text)
    if found:
        start, end = found[-1]
        answer = text[start:end].strip()
        if mode == "choice":
            letter = _letter(answer, choices)
            return Extraction(letter, "box") if letter else None
        return Extraction(_storable(answer), "box")
    if final_answer:
        phrase = _last_phrase(text)
        if phrase:
            answer = (_letter(phrase, choices) or "") if mode == "choice" else _first_sentence(phrase)
            if answer:
                return Extraction(_storable(answer), "final_answer")
    if last_number and mode == "math":
        numbers = [match.group() for match in _NUMBER.finditer(text)]
        if numbers and len(numbers[-1]) <= _MOST_NUMBER:
            return Extraction(numbers[-1], "last_number")
    return None


def _storable(answer: str) -> str:
    """Without what cannot be written as UTF-8 or into a table: lone surrogates and NUL."""
    return answer.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


def _last_phrase(text: str) -> str:
    """What follows the last "answer is" of a text."""
    last = None
    for last in _PHRASE.finditer(text):  # noqa: B007
        pass
    return text[last.end() :] if last else ""


def _first_sentence(text: str) -> str:
    """Up to the end of the first sentence or line, without the signs that set mathematics off."""
    end = _SENTENCE_END.search(text)
    line = (text[: end.start()] if end else text).strip().strip("*").strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if line.startswith(opening) and line.find(closing, len(opening)) > 0:
            return line[len(opening) : line.find(closing, len(opening))].strip()
    return line


def _letter(answer: str, choices: str) -> str | None:
    r"""The letter that an answer chooses: `C`, `(C)`, `\textbf{(C)}`, `C. Neon`; None for `Carbon` or `a`."""
    match = _CHOICE.match(_FONT.sub("", answer))
    return match.group(1) if match and match.group(1) in choices else None
