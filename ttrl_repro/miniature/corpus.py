"""The corpus of the miniature: documents by latent authors, one worked question each.

An author has a *convention* (operator precedence, or left to right with a share that grows with
the number of terms) and a *style*:

- stepwise: `3*4=12;7+12=19;\\boxed{19}`
- direct:   `\\boxed{19}`, without steps, so that a small model mostly guesses
- run-on:   the steps, then more steps that nobody asked for, and never a box

No document contains a wrong step: errors of a trained base are its own (organic), and the one
systematic error is the shared convention. Expressions that tasks draw from never occur (held out).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ttrl_repro.miniature.expressions import Expression, Operators, draw_expression
from ttrl_repro.miniature.tokenizer import encode_completion, encode_prompt
from ttrl_repro.seeds import generator

Style = Literal["stepwise", "direct", "run_on"]
MAX_COMPLETION = 90  # tokens, end-of-sequence included


class Corpus(BaseModel):
    """The dials of the corpus. Shares are relative weights, but for the misconception's (probabilities)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    tokens: int = Field(gt=0, description="size of the corpus in tokens, prompts included")
    terms: dict[int, float] = Field(description="relative share of documents with k terms")
    misconception: dict[int, float] = Field(
        description="share of authors who read a k-term expression from left to right"
    )
    stepwise: float = Field(0.80, ge=0)
    direct: float = Field(0.15, ge=0)
    run_on: float = Field(0.05, ge=0)
    operators: Operators = Operators()

    @field_validator("terms")
    @classmethod
    def _terms(cls, value: dict[int, float]) -> dict[int, float]:
        if not value or min(value) < 2 or min(value.values()) < 0 or sum(value.values()) <= 0:
            raise ValueError("needs term counts of 2 or more with shares of 0 or more, not all 0")
        return value

    @model_validator(mode="after")
    def _misconception(self) -> Corpus:
        missing = sorted(k for k in self.terms if k > 2 and k not in self.misconception)
        if missing:
            raise ValueError(f"misconception: no share for term counts {missing}")
        if any(not 0 <= share <= 1 for share in self.misconception.values()):
            raise ValueError("misconception: shares must lie in [0, 1]")
        if self.stepwise + self.direct + self.run_on <= 0:
            raise ValueError("stepwise, direct, run_on: at least one style needs a positive share")
        return self


@dataclass(frozen=True)
class Document:
    """One worked question: prompt and completion as token ids (completion ends in EOS or is cut)."""

    prompt_ids: list[int]
    completion_ids: list[int]


def completion_text(expression: Expression, left_to_right: bool, style: Style) -> str:
    """What an author writes after `expression=`; a run-on goes on past MAX_COMPLETION tokens."""
    steps = expression.steps(left_to_right)
    value = steps[-1][3]
    written = ";".join(f"{left}{op}{right}={result}" for left, op, right, result in steps)
    if style == "direct":
        return f"\\boxed{{{value}}}"
    if style == "stepwise":
        return f"{written};\\boxed{{{value}}}"
    # Run-on: keep adding the expression's own numbers, round and round.
    i = 0
    while len(written) <= MAX_COMPLETION:
        number = expression.numbers[i % expression.terms]
        written += f";{value}+{number}={value + number}"
        value, i = value + number, i + 1
    return written


def documents(corpus: Corpus, seed: int, report: Callable[[int], None] = lambda _: None) -> list[Document]:
    """The corpus of base seed `seed`, in order; reproducible from (corpus, seed) alone.

    `report(tokens)` is called with every document's size.
    """
    rng = generator(seed, "corpus")
    lengths = np.array(sorted(corpus.terms))
    length_p = np.array([corpus.terms[k] for k in lengths], dtype=float)
    styles: tuple[Style, ...] = ("stepwise", "direct", "run_on")
    style_p = np.array([corpus.stepwise, corpus.direct, corpus.run_on])
    length_p, style_p = length_p / length_p.sum(), style_p / style_p.sum()
    out: list[Document] = []
    total = 0
    while total < corpus.tokens:
        expression = draw_expression(rng, int(rng.choice(lengths, p=length_p)), corpus.operators)
        if expression.held_out:
            continue
        left_to_right = bool(rng.random() < corpus.misconception.get(expression.terms, 0.0))
        style = styles[int(rng.choice(3, p=style_p))]
        prompt = encode_prompt(f"{expression}=")
        completion = encode_completion(
            completion_text(expression, left_to_right, style), MAX_COMPLETION, ends=style != "run_on"
        )
        out.append(Document(prompt, completion))
        total += len(prompt) + len(completion)
        report(len(prompt) + len(completion))
    return out
