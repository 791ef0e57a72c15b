"""The final answer in a model's text."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\.|[{}]", re.DOTALL)


def extract(text: str) -> str | None:
    r"""The content of the last complete `\boxed{...}` or `\fbox{...}`, stripped; None if there is none.

    Braces may nest; `\{` and `\}` are text. A box that is never closed (truncated output) does not
    count, and neither does an empty one. There is no fallback to the last number in the text: the
    released TTRL code has one, and truncated outputs then vote. Time is linear in the text.

    >>> extract(r"so \boxed{\frac{1}{2}}, or \boxed{3")
    '\\frac{1}{2}'
    """
    stack: list[int | None] = []  # start of the content for a box, None for another brace
    best: tuple[int, int] | None = None
    for match in _TOKEN.finditer(text):
        token = match.group()
        if match["box"]:
            stack.append(match.end())
        elif token == "{":
            stack.append(None)
        elif token == "}" and stack:
            start = stack.pop()
            # Boxes close inside out, so an outer box replaces the one it contains.
            if start is not None and text[start : match.start()].strip():
                best = (start, match.start())
    return text[best[0] : best[1]].strip() if best else None
