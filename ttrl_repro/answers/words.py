"""Keys of answers that are not mathematics: words, and whatever no parser reads."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from ttrl_repro.answers import keys

_WRAPPERS = re.compile(
    r"\\(?:text[a-z]{0,6}|mathrm|mathbf|mbox|operatorname|left|right|displaystyle|[,;:! ])(?![a-zA-Z])"
)
_UPRIGHT = re.compile(r"\\(?:text[a-z]{0,6}|mathrm|mathbf|mbox|operatorname)\s?\{([^{}]*)\}")
_SEPARATOR = re.compile(r"\s*(?:,|;|&|\band\b|\bor\b)\s*")
_NAME = re.compile(r"[^\W\d_]{2,30}(?: [^\W\d_]{2,30})?")
_MOST_NAMES = 20
_DROPPED = re.compile(r"[\s$\\\0]+")
_WORD_CHARS = 60


def words_key(answer: str) -> str | None:
    r"""`text:` and the words in lower case, without spaces, layout and punctuation around them.

    `\text{East}` and `east.` are equal. A text with other signs than letters and digits, or a long one, has a
    digest of all of it at the end, so that keys stay short, safe to store and apart. None if nothing is left.
    """
    names = _names(answer)
    if names is not None:
        return keys.listed([f"text:{name}" for name in names])
    safe = answer.encode("utf-8", "replace").decode("utf-8")
    text = unicodedata.normalize("NFC", safe) if len(safe) < 10000 else safe
    text = _DROPPED.sub("", _WRAPPERS.sub("", _UPRIGHT.sub(r"\1", text))).strip(".,;:").casefold()
    plain = "".join(char for char in text if char.isalnum())
    if not plain:
        return None
    if text.strip("{}()[]!?'\"*`") == plain and not any(char.isdigit() for char in plain):
        text = plain  # words alone: what stands around them is punctuation
    if plain == text and len(text) <= _WORD_CHARS:
        return f"text:{text}"
    return f"text:{plain[:_WORD_CHARS]}#{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _names(answer: str) -> list[str] | None:
    """The names of a list of names, whose order does not count: `Ann, Bob and Eve`; None for any other text."""
    if len(answer) > 500:
        return None
    parts = [part for part in _SEPARATOR.split(_UPRIGHT.sub(r"\1", answer).strip(" .$")) if part]
    if not 2 <= len(parts) <= _MOST_NAMES or not all(_NAME.fullmatch(part) for part in parts):
        return None
    names = ["".join(part.casefold().split()) for part in parts]
    return None if set(names) & {"true", "false", "yes", "no"} else names  # those answer several questions, in order
