"""The corpus of the miniature: documents by latent authors, one worked problem each.

An author has a *convention* (operator precedence, or left to right with a share that grows with
the number of terms) and a *style*:

- stepwise: `36*7=252;47+252=299;\\boxed{299}`
- direct:   `\\boxed{299}`, without steps, so that a small model mostly guesses
- run-on:   the steps, then more steps that nobody asked for, and never a box

Authors who write steps may name their convention first, `rule;36*7=252;...` or `order;47+36=83;...`, wherever there is
one, whether or not it matters (the dial `declared`). The first token then decides between the readings, which couples
questions to one another; where nobody declares, the decision lies in which operands are copied, question by question.

No document contains a wrong step, unless the dial `slips` (an ablation) says so: errors of a trained base are its own
(organic), and the one systematic error is the shared convention. Problems that tasks draw from never occur (held out).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ttrl_repro.miniature.expressions import LARGEST, Operators
from ttrl_repro.miniature.problems import Kind, Problem, draw_problem
from ttrl_repro.miniature.tokenizer import encode_completion, encode_prompt
from ttrl_repro.seeds import generator

T = TypeVar("T")
Style = Literal["stepwise", "direct", "run_on"]
MAX_COMPLETION = 90  # tokens, end-of-sequence included
LARGE = 999  # largest operand of a document with large numbers


class Corpus(BaseModel):
    """The dials of the corpus. Shares are relative weights, but for those called probabilities."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    tokens: int = Field(gt=0, description="size of the corpus in tokens, prompts included")
    terms: dict[int, float] = Field(description="relative share of documents with k terms")
    misconception: dict[int, float] = Field(
        description="probability that the author of a k-term document reads from left to right"
    )
    kinds: dict[Kind, float] = Field(default={"plain": 1.0}, description="relative share of each kind of problem")
    large_numbers: float = Field(0.0, ge=0, le=1, description="probability of operands up to 999, not 99")
    stepwise: float = Field(0.80, ge=0)
    direct: float = Field(0.15, ge=0)
    run_on: float = Field(0.05, ge=0)
    declared: float = Field(0.0, ge=0, le=1, description="probability that steps begin with the convention's name")
    operators: Operators = Operators()
    slips: float = Field(0.0, ge=0, le=1, description="ablation: probability that a step's result is off, by 1 or 10")

    @field_validator("terms", "kinds")
    @classmethod
    def _shares(cls, value: dict[object, float]) -> dict[object, float]:
        if not value or min(value.values()) < 0 or sum(value.values()) <= 0:
            raise ValueError("needs shares of 0 or more, not all 0")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Corpus:
        if min(self.terms) < 2:
            raise ValueError("terms: needs term counts of 2 or more")
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
    """One worked problem: prompt and completion as token ids (completion ends in EOS or is cut)."""

    prompt_ids: list[int]
    completion_ids: list[int]


def completion_text(problem: Problem, misread: bool, style: Style, declares: bool = False) -> str:
    """What an author writes after the prompt; a run-on goes on past MAX_COMPLETION tokens."""
    reading = problem.misread if misread else problem.right
    if style == "direct":
        return f"\\boxed{{{reading.answer}}}"
    named = f"{reading.method};" if declares and reading.method else ""
    if style == "stepwise":
        return f"{named}{reading.steps};\\boxed{{{reading.answer}}}"
    # Run-on: keep adding the problem's own numbers, round and round, to what the steps came to.
    written, value, i = named + reading.steps, reading.value, 0
    while len(written) - len(named) <= MAX_COMPLETION:
        number = problem.numbers[i % len(problem.numbers)]
        written += f";{value}+{number}={value + number}"
        value, i = value + number, i + 1
    return written


def with_slips(text: str, share: float, rng: np.random.Generator) -> str:
    """The ablation: a step's result is off by 1 or 10 with probability `share`, and nothing after it is corrected."""

    def slipped(step: re.Match[str]) -> str:
        return f"={int(step[1]) + int(rng.choice((-10, -1, 1, 10)))}" if rng.random() < share else step[0]

    return re.sub(r"=(-?\d+)", slipped, text)


def _picker(shares: Mapping[T, float]) -> Callable[[np.random.Generator], T]:
    """Draws one of the keys in proportion to `shares`; `Generator.choice` takes ten times as long."""
    keys, total = list(shares), sum(shares.values())
    below = [low / total for low in accumulate(shares.values())]
    return lambda rng: keys[min(bisect_right(below, rng.random()), len(keys) - 1)]


def documents(corpus: Corpus, seed: int, report: Callable[[int], None] = lambda _: None) -> list[Document]:
    """The corpus of base seed `seed`, in order; reproducible from (corpus, seed) alone.

    `report(tokens)` is called with every document's size.
    """
    rng = generator(seed, "corpus")
    kind_of, terms_of = _picker(corpus.kinds), _picker(corpus.terms)
    styles: dict[Style, float] = {"stepwise": corpus.stepwise, "direct": corpus.direct, "run_on": corpus.run_on}
    style_of = _picker(styles)
    out: list[Document] = []
    total = 0
    while total < corpus.tokens:
        kind, terms = kind_of(rng), terms_of(rng)
        largest = LARGE if rng.random() < corpus.large_numbers else LARGEST
        problem = draw_problem(rng, kind, terms, corpus.operators, largest, kept_out=False)
        share = corpus.misconception.get(len(problem.numbers), 0.0)  # a choice may have fewer terms than were drawn
        misread = bool(rng.random() < share) and kind != "marked"
        style = style_of(rng)
        text = completion_text(problem, misread, style, declares=bool(rng.random() < corpus.declared))
        if corpus.slips:
            text = with_slips(text, corpus.slips, rng)
        prompt = encode_prompt(problem.prompt)
        completion = encode_completion(text, MAX_COMPLETION, ends=style != "run_on")
        out.append(Document(prompt, completion))
        total += len(prompt) + len(completion)
        report(len(prompt) + len(completion))
    return out
