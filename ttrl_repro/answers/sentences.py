r"""Answers that are still a sentence: the part of them that is the answer.

A label in a user's file may be a whole solution, and a box may hold words around its mathematics. Only what
the text itself points to is taken: boxes, `#### 72`, "the answer is", `$...$`, `\(...\)`, `\[...\]`, and what
a last "is" leads to. There is no fallback to the last number. Time is linear in the text.
"""

from __future__ import annotations

import re

from ttrl_repro.answers.extract import boxes
from ttrl_repro.answers.tokens import FUNCTIONS, names

Span = tuple[int, int]

_DELIMITER = re.compile(r"\$\$|\$|\\[()\[\]]")
_CLOSES = {"$$": "$$", "$": "$", r"\(": r"\)", r"\[": r"\]"}
_PHRASE = re.compile(r"(?:answer|solution|result|value)\*{0,2}\s{0,2}(?:is\b|:|(?=[$\\]))[\s*]{0,3}:?", re.IGNORECASE)
_IS = re.compile(r"(?:\bis\b|\bare\b|'s\b|\bequals\b)\s{0,3}([^\sa-zA-Z][^=:$]{0,60})$")
# "x is 5", "it must be 5", "Area: 6", "\\text{Answer: } 42": a short text that ends in its answer.
_LABELLED = re.compile(
    r"(?:\b(?:is|are|be|equals|gives|get)\b|'s\b|[a-zA-Z]{2}\s?:)[\s}$]{0,4}((?<![a-zA-Z:])[^\sa-zA-Z:}][^=:]{0,40})$"
)
_BRACKETED = re.compile(r"\[\s{0,3}([^\[\]]{1,40})\]$")  # a last "... [45]", as some prompts ask for
_INTRODUCED = re.compile(r"^\s*(?:therefore|thus|so|hence|then|finally|either|both)\b[,:]?\s*", re.IGNORECASE)
_PERCENT = re.compile(r"\$?\s{0,3}(\\?%|percent(?:age)?\b|pct\b)", re.IGNORECASE)
_CLOSING = re.compile(r"I hope it is correct|<\|(?:im_start|im_end|endoftext)\|>|\[/?INST\]", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?](?:\s|$)|\n")
_NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")
_WORD = re.compile(r"\\?[a-zA-Z]+")
_PLAIN_WORD = re.compile(r"[a-zA-Z]+(?:'[a-z]+)?")
# An option with its label, "(A) 5" or "C. Neon": the label is the answer, unless others are named too.
_OPTION = re.compile(
    r"[\s$]{0,4}(?:\\text(?:bf|rm)?\{)?(?:\(([A-J])\)\}?|([A-E])[.)])[\s\\]{1,4}(?![\s=])(\S.*)", re.DOTALL
)
_CHOSEN = re.compile(r"\s*(?:the\s)?(?:correct\s)?(?:option|choice)\s(?:is\s)?\(?([A-J])\)?\.?\s*", re.IGNORECASE)
_OTHER_OPTION = re.compile(r"\(?\b[A-J]\b[).:]|\b(?:and|or)\b", re.IGNORECASE)
_STOP = re.compile(r"[0-9.,;:]")
_WRAPPING = "*`\"'“”‘’ "
# What, beside a number, makes it another answer: "at least 5", "5 or less", "half of 6", "not 7".
_CHANGING = names(
    "not isn't aren't never no nor neither except least most more less fewer than over under above below "
    "between up to half twice thrice double triple times multiple multiples square squared cube cubed million "
    "billion thousand trillion hundred dozen root but by negative opposite reciprocal inverse cannot can't without"
)
_OPERATORS = frozenset("<>≤≥≠±√^(/*+-!")
_GAP = 40  # characters between parts of one answer
_NEAR = 24  # characters beside a part in which words may change it
_JOINING = frozenset({"and", "or"})
_SILENT = frozenset({r"\quad", r"\qquad", r"\text", r"\mbox", r"\left", r"\right"})
_BETWEEN = frozenset(" \t\n$,;.(){}[]\\~_=0123456789")


def final_part(text: str) -> str:
    """The answer within a text, or the text as it is where nothing in it is pointed to."""
    found = boxes(text)
    if found:
        return _joined(text, found)
    if len(text) < _GAP and text.strip()[:1] in _WRAPPING:
        text = text.strip(_WRAPPING)
    chosen = _CHOSEN.fullmatch(text)
    if chosen:
        return chosen[1]
    option = _OPTION.match(text)
    if option and not _OTHER_OPTION.search(option[3]):
        return option[1] or option[2]
    if "####" in text:
        return text.rpartition("####")[2].strip()
    closing = _CLOSING.search(text)
    body = text[: closing.start()] if closing else text
    phrases = list(_PHRASE.finditer(body))
    announced = bool(phrases) and body[phrases[-1].end() :].strip() != ""
    if announced:
        body = body[phrases[-1].end() :].lstrip(" }*")
    spans = _mathematics(body)
    around = _WORD.findall(_without(body, spans))
    prose = sum(len(word) > 1 and word[0] != "\\" and word not in FUNCTIONS for word in around) > 2
    labelled = _LABELLED.search(text[-80:])
    if labelled and len(text) < 2 * _GAP and not announced:
        return text if _changed(text, text.rfind(labelled[1]), len(text)) else labelled[1].strip()
    if not prose:
        # Delimiters within mathematics are layout: `$x$ = 5` is `x = 5`.
        if announced and spans:
            return text if _changed(body, *spans[-1]) else _joined(body, spans)
        return _first_sentence(body).strip(_WRAPPING) if announced else _INTRODUCED.sub("", body, count=1).strip()
    last = body.rstrip().rstrip(".")
    pointed = _IS.search(last, max(0, len(last) - 80)) or _BRACKETED.search(last, max(0, len(last) - 50))
    if pointed and (not spans or pointed.start() >= spans[-1][1]):
        return text if _changed(last, pointed.start(1), len(last)) else pointed.group(1).strip()
    start = _last_sentence(body)
    numbers = list(_NUMBER.finditer(body, start))
    if len(numbers) == 1 and (not spans or spans[-1][1] <= start):
        return text if _changed(body, *numbers[0].span()) else numbers[0].group()
    if not spans:
        return _first_sentence(body) if announced else text
    if _changed(body, *spans[-1]):
        return text
    percent = _PERCENT.match(body, spans[-1][1])
    return _joined(body, spans) + (" %" if percent else "")


def _changed(text: str, start: int, end: int) -> bool:
    """Whether the two words before a part or the two after it, or a sign beside it, make it another answer."""
    before, after = text[max(0, start - _NEAR) : start], text[end : end + _NEAR]
    before, after = before.rstrip("$\\([ "), after.lstrip("$\\)] ")
    words = _PLAIN_WORD.findall(_STOP.split(before)[-1])
    near = words[-2:] + _PLAIN_WORD.findall(_SENTENCE.split(after)[0])[:2]
    if any(word.lower() in _CHANGING for word in near):
        return True
    return before[-1:] in _OPERATORS or text[end : end + 3].lstrip("$\\)]")[:1].isalpha()


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


def _last_sentence(text: str) -> int:
    """Where the last sentence begins that is not empty, within the last 300 characters."""
    end = len(text)
    starts = [0 if end <= 300 else end - 300, *(m.end() for m in _SENTENCE.finditer(text, max(0, end - 300)))]
    return next((start for start in reversed(starts) if text[start:].strip()), 0)


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
