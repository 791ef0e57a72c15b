r"""Answers that are still a sentence: the part of them that is the answer.

A label in a user's file may be a whole solution, and a box may hold words around its mathematics. Only what
the text itself points to is taken: boxes, `#### 72`, "the answer is", `$...$`, `\(...\)`, `\[...\]`, and what
a last "is" leads to. There is no fallback to the last number. Time is linear in the text.
"""

from __future__ import annotations

import re

from ttrl_repro.answers.extract import boxes
from ttrl_repro.answers.tokens import FUNCTIONS

Span = tuple[int, int]

_DELIMITER = re.compile(r"\$\$|\$|\\[()\[\]]")
_CLOSES = {"$$": "$$", "$": "$", r"\(": r"\)", r"\[": r"\]"}
_PHRASE = re.compile(r"(?:answer|solution|result|value)\s{0,2}(?:is\b|:)\s{0,3}:?", re.IGNORECASE)
_IS = re.compile(r"(?:\bis\b|\bare\b|'s\b|\bequals\b)\s{0,3}([^\sa-zA-Z][^=:$]{0,60})$")
_BRACKETED = re.compile(r"\[\s{0,3}([^\[\]]{1,40})\]$")  # a last "... [45]", as some prompts ask for
_PERCENT = re.compile(r"\$?\s{0,3}(\\?%|percent(?:age)?\b|pct\b)", re.IGNORECASE)
_CLOSING = re.compile(r"I hope it is correct|<\|(?:im_start|im_end|endoftext)\|>|\[/?INST\]", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?](?:\s|$)|\n")
_NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")
_WORD = re.compile(r"\\?[a-zA-Z]+")
# An option with its label, "(A) 5" or "C. Neon": the label is the answer.
_OPTION = re.compile(r"[\s$]{0,4}(?:\\text(?:bf|rm)?\{)?\(?([A-J])(?:\)\}?|\.|:)[\s\\]{1,4}(?![\s=])\S")
_GAP = 40  # characters between parts of one answer
_JOINING = frozenset({"and", "or"})
_SILENT = frozenset({r"\quad", r"\qquad", r"\text", r"\mbox", r"\left", r"\right"})
_BETWEEN = frozenset(" \t\n$,;.(){}[]\\~_=0123456789")


def final_part(text: str) -> str:
    """The answer within a text, or the text as it is."""
    found = boxes(text)
    if found:
        return _joined(text, found)
    option = _OPTION.match(text)
    if option:
        return option[1]
    if "####" in text:
        return text.rpartition("####")[2].strip()
    if "$" not in text and "\\" not in text and text.count(" ") < 2:
        return text
    closing = _CLOSING.search(text)
    body = text[: closing.start()] if closing else text
    phrases = list(_PHRASE.finditer(body))
    announced = bool(phrases) and body[phrases[-1].end() :].strip() != ""
    if announced:
        body = body[phrases[-1].end() :]
    spans = _mathematics(body)
    around = _WORD.findall(_without(body, spans))
    prose = sum(len(word) > 1 and word[0] != "\\" and word not in FUNCTIONS for word in around) > 2
    if prose or announced:
        last = body.rstrip().rstrip(".")
        pointed = _IS.search(last, max(0, len(last) - 80))
        pointed = pointed or _BRACKETED.search(last, max(0, len(last) - 50))
        if pointed and (not spans or pointed.start() >= spans[-1][1]):
            return pointed.group(1).strip()
    if prose:
        conclusion = _last_sentence(body)
        numbers = _NUMBER.findall(conclusion)
        if len(numbers) == 1 and not _mathematics(conclusion):
            return numbers[0]
    if spans:
        percent = _PERCENT.match(body, spans[-1][1])
        return _joined(body, spans) + (" %" if percent else "")
    return _first_sentence(body) if announced else body.strip()


def _mathematics(text: str) -> list[Span]:
    """Spans of what stands between a pair of mathematical delimiters, in order."""
    spans: list[Span] = []
    opened: re.Match[str] | None = None
    for match in _DELIMITER.finditer(text):
        if opened is None:
            opened = match if match.group() in _CLOSES else None
        elif match.group() == _CLOSES[opened.group()]:
            if text[opened.end() : match.start()].strip():
                spans.append((opened.end(), match.start()))
            opened = None
    return spans


def _without(text: str, spans: list[Span]) -> str:
    """The text around the spans."""
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(text)]
    return " ".join(text[end:start] for end, start in zip(ends, starts, strict=True))


def _first_sentence(text: str) -> str:
    end = _SENTENCE.search(text)
    return (text[: end.start()] if end else text).strip()


def _last_sentence(text: str) -> str:
    """The last sentence that is not empty, from at most the last 300 characters."""
    return next((part for part in reversed(_SENTENCE.split(text[-300:])) if part.strip()), "")


def _joined(text: str, spans: list[Span]) -> str:
    """The last span, and those before it that a comma or a short "and" joins to it."""
    first = len(spans) - 1
    while first > 0 and _joins(text[spans[first - 1][1] : spans[first][0]]):
        first -= 1
    return ", ".join(text[start:end].strip() for start, end in spans[first:])


def _joins(gap: str) -> bool:
    """Whether what stands between two parts only lists them: `, `, ` and `, `\\quad \\text{or} \\quad y = `."""
    if len(gap) > _GAP:
        return False
    gap = re.sub(r"\\(?:boxed|fbox)\s?\{$", "", gap)
    words = [word for word in _WORD.findall(gap) if word not in _SILENT]
    listing = [word for word in words if word in _JOINING]
    others = [word for word in words if word not in _JOINING]
    if others and gap.rstrip(" $({\\").endswith("=") and len(others[-1]) == 1:  # the name of the next part
        others.pop()
    if others and (not listing or len(others) > 1 or not words[-1:] or words[0] != others[0]):
        return False
    return all(char in _BETWEEN for char in _WORD.sub("", gap))
