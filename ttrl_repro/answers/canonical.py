"""Keys of answers: equal answers have equal keys. Votes are counted over classes of keys (`keys.classes`)."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from math import gcd

from ttrl_repro.answers.guard import GUARD
from ttrl_repro.answers.keys import _may_fit, _rounded, exact, fits, same
from ttrl_repro.answers.reply import Outcome, Reply
from ttrl_repro.answers.sentences import final_part
from ttrl_repro.answers.words import words_key

MAX_TEXT = 20_000  # characters of a text that is searched for its answer
MAX_CHARS = 1000  # of an answer that is parsed; a longer one is compared as text
CACHED = 1 << 17  # answers whose keys are remembered
_AT_A_GLANCE = 320  # characters of a number that is read without a parser

_NUMBER = re.compile(
    r"\$? ?([+-]?) ?\$? ?([0-9]{1,150}|[0-9]{1,3}(?:,[0-9]{3}){1,49})(?:\.([0-9]{0,150}))? ?\.? ?\$?", re.ASCII
)
_FRACTION = re.compile(
    r"\$?([+-]?) ?\\[dt]?frac\{([0-9]{1,300})\}\{([0-9]{1,300})\}\$?|\$?([+-]?)([0-9]{1,300})/([0-9]{1,300})\$?",
    re.ASCII,
)

_cache: OrderedDict[str, Reply] = OrderedDict()
_lock = threading.Lock()


def _after_fork() -> None:
    """In the child of a fork: another thread of the parent may have held the lock."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def canonical(answer: str | None) -> str | None:
    r"""The key of an answer: equal answers have equal keys (the grammar is in `keys`).

    None (no answer) stays None, and so does an answer without any letter or digit. Numbers that can be
    read at a glance are; all else is parsed in the guarded worker, once for every string.

    >>> canonical("025") == canonical("25.0") == canonical("$25$") == "25"
    True
    >>> canonical(r"\frac{1}{2}") == canonical("0.5") == "1/2"
    True
    """
    return None if answer is None else _read(answer).key


def outcome(answer: str) -> Outcome:
    """What came of parsing an answer: `parsed`, `text` (compared as words), `parse_error` or `parse_timeout`."""
    return _read(answer).outcome


def _read(answer: str) -> Reply:
    simple = _simple(answer)
    if simple is not None:
        return Reply(simple, "parsed")
    # Long ones by a digest, so that the cache stays small.
    name = answer if len(answer) <= 200 else hashlib.sha256(answer.encode("utf-8", "surrogatepass")).hexdigest()
    with _lock:
        if name in _cache:
            _cache.move_to_end(name)
            return _cache[name]
    reply = _parsed(answer)
    with _lock:
        _cache[name] = reply
        if len(_cache) > CACHED:
            _cache.popitem(last=False)
    return reply


def canonical_all(answers: Sequence[str | None]) -> list[str | None]:
    """The keys of many answers, in one call: every distinct string is looked at once."""
    found = {answer: canonical(answer) for answer in dict.fromkeys(answers)}
    return [found[answer] for answer in answers]


def _simple(answer: str) -> str | None:
    """The key of a number in digits, without any parser; None for everything else."""
    if len(answer) > _AT_A_GLANCE:
        return None
    answer = answer.strip()
    match = _NUMBER.fullmatch(answer)
    if match:
        sign, whole, decimals = match.groups()
        decimals = (decimals or "").rstrip("0")
        digits = whole.replace(",", "")
        if decimals:
            return _reduced(sign == "-", int(digits + decimals), 10 ** len(decimals))
        digits = digits.lstrip("0") or "0"
        return f"-{digits}" if sign == "-" and digits != "0" else digits
    match = _FRACTION.fullmatch(answer)
    if match:
        sign, above, below = (match.group(i) or match.group(i + 3) or "" for i in (1, 2, 3))
        if int(below):
            return _reduced(sign == "-", int(above), int(below))
    return None


def _reduced(negative: bool, above: int, below: int) -> str:
    common = gcd(above, below)
    above, below = above // common, below // common
    sign = "-" if negative and above else ""
    return f"{sign}{above}" if below == 1 else f"{sign}{above}/{below}"


def _parsed(answer: str) -> Reply:
    if len(answer) <= MAX_TEXT:
        answer = final_part(answer)
    if len(answer) > MAX_CHARS:
        return Reply(words_key(answer), "text")
    simple = _simple(answer)
    if simple is not None:
        return Reply(simple, "parsed")
    key, found = GUARD.read(answer)
    return Reply(words_key(answer), found) if key is None else Reply(key, found)


def equivalent(a: str | None, b: str | None) -> bool:
    """Whether two answers are the same: equal keys, or one says less and may mean the other (`keys.fits`).

    Symmetric. Not transitive where rounding is involved, which is why votes cluster keys with `keys.classes`.
    """
    one, other = canonical(a), canonical(b)
    return one is not None and other is not None and same(one, other)


def forget() -> None:
    """Empty the cache of keys and end the worker: the next answers are read as in a new process."""
    with _lock:
        _cache.clear()
    for cached in (exact, fits, _rounded, _may_fit):
        cached.cache_clear()
    GUARD.close()
