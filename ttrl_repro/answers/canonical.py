"""Keys of answers: two answers count as the same vote if and only if their keys are equal."""

from __future__ import annotations

import re

_INTEGER = re.compile(r"([+-]?) ?([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.0*)?", re.ASCII)
_THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|\\[,!] ?)(?=[0-9]{3})")  # LaTeX: 1{,}000 and 1\,000


def canonical(answer: str | None) -> str | None:
    """The key of an answer; None (no answer) stays None.

    Integers have one key however they are written: `025`, `25.0`, `+25`, `$25$`; `1,000` and
    `1{,}000` are `1000`, and `-0` is `0`. Any other answer is its own key, but for white space and
    enclosing dollar signs.

    >>> canonical("025") == canonical("25.0") == "25"
    True
    """
    if answer is None:
        return None
    text = " ".join(answer.split())
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text.strip("$").strip()
    if not text:
        return None
    match = _INTEGER.fullmatch(_THOUSANDS.sub(",", text.replace("−", "-")))
    if match:
        digits = match.group(2).replace(",", "").lstrip("0") or "0"
        return f"-{digits}" if match.group(1) == "-" and digits != "0" else digits
    return text
