"""Keys of answers that are not mathematics: words, and whatever no parser reads."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_WRAPPERS = re.compile(
    r"\\(?:text[a-z]{0,6}|mathrm|mathbf|mbox|operatorname|left|right|displaystyle|[,;:! ])(?![a-zA-Z])"
)
_DROPPED = re.compile(r"[\s$\\{}\0]+")
_WORD_CHARS = 60


def words_key(answer: str) -> str | None:
    r"""`text:` and the words in lower case, without spaces, layout and punctuation around them.

    `\text{East}` and `east.` are equal. A text with other signs than letters and digits, or a long one, has a
    digest of all of it at the end, so that keys stay short, safe to store and apart. None if nothing is left.
    """
    safe = answer.encode("utf-8", "replace").decode("utf-8")
    text = unicodedata.normalize("NFC", safe) if len(safe) < 10000 else safe
    text = _DROPPED.sub("", _WRAPPERS.sub("", text)).strip(".,;:!?()[]").casefold()
    if not any(char.isalnum() for char in text):
        return None
    plain = "".join(char for char in text if char.isalnum())
    if plain == text and len(text) <= _WORD_CHARS:
        return f"text:{text}"
    return f"text:{plain[:_WORD_CHARS]}#{hashlib.sha256(text.encode()).hexdigest()[:12]}"
