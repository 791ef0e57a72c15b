"""Cutting tokens at signs outside brackets."""

from __future__ import annotations

from collections.abc import Sequence

from ttrl_repro.answers.tokens import Token, Unreadable

Tokens = Sequence[Token]

_OPENING = {"(": (")", "]"), "[": (")", "]"), "{": ("}",), r"\{": (r"\}",)}
_CLOSING = frozenset({")", "]", "}", r"\}"})
_RELATIONS = frozenset({"=", "<", ">", "<=", ">=", "!=", "~"})
_LEADING = (".", ",", ";", ":", "!", "=", "=>", "~")  # that an answer may begin with by mistake: `= 5`


def is_sign(token: Token, *texts: str) -> bool:
    return token.kind == "sign" and token.text in texts


def trim(tokens: Tokens) -> Tokens:
    """Without punctuation around it and braces that group all of it."""
    start, end = 0, len(tokens)
    while start < end and (is_sign(tokens[start], *_LEADING) or tokens[start].text in ("and", "or")):
        start += 1
    while end > start and (is_sign(tokens[end - 1], ".", ",", ";", ":") or tokens[end - 1].text in ("and", "or")):
        end -= 1
    tokens = tokens[start:end]
    if len(tokens) > 1 and is_sign(tokens[0], "{") and closing(tokens, 0) == len(tokens) - 1:
        return trim(tokens[1:-1])
    return tokens


def closing(tokens: Tokens, start: int) -> int:
    """Index of the bracket that closes the one at `start`. Raises Unreadable if there is none."""
    stack: list[tuple[str, ...]] = []
    for index in range(start, len(tokens)):
        token = tokens[index]
        if token.kind != "sign":
            continue
        if token.text in _OPENING:
            stack.append(_OPENING[token.text])
        elif token.text.startswith("begin "):
            stack.append(("end " + token.text[6:],))
        elif token.text in _CLOSING or token.text.startswith("end "):
            if token.text in ("end floor", "end ceil"):
                continue
            if not stack or token.text not in stack.pop():
                raise Unreadable(f"{token.text!r} closes nothing")
            if not stack:
                return index
    raise Unreadable("a bracket that is never closed")


def split(tokens: Tokens, *signs: str, words: tuple[str, ...] = ()) -> list[Tokens]:
    """Cut at signs (and words) outside all brackets. Raises Unreadable for unbalanced brackets."""
    parts: list[Tokens] = []
    start = index = 0
    while index < len(tokens):
        token = tokens[index]
        if is_sign(token, *signs) or (token.kind == "word" and token.text in words):
            parts.append(tokens[start:index])
            start = index + 1
        elif token.kind == "sign":
            if token.text in _OPENING or token.text.startswith("begin "):
                index = closing(tokens, index)
            elif token.text in _CLOSING:
                raise Unreadable(f"{token.text!r} closes nothing")
        index += 1
    return [*parts, tokens[start:]]


def written(tokens: Tokens) -> str:
    return "".join(token.text for token in tokens)


def sides_of(tokens: Tokens) -> tuple[list[Tokens], list[str]]:
    parts = [trim(part) for part in split(tokens, *_RELATIONS)]
    relations, depth = [], 0
    for token in tokens:
        if token.kind == "sign":
            depth += (token.text in _OPENING or token.text.startswith("begin ")) - (
                token.text in _CLOSING or (token.text.startswith("end ") and token.text[4:] not in ("floor", "ceil"))
            )
            if depth == 0 and token.text in _RELATIONS:
                relations.append(token.text)
    if any(not part for part in parts):
        raise Unreadable("a relation with an empty side")
    return parts, relations
