"""Adaptive voting: sampling each question only until its majority is decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ttrl_repro.adaptive import SequentialRule
from ttrl_repro.answers import canonical_all
from ttrl_repro.rollouts.base import Engine, Samples, Sampling


def sample_until_decided(
    engine: Engine,
    prompts: list[list[int]],
    uniforms_QNT: np.ndarray,
    sampling: Sampling,
    rule: SequentialRule,
    at_least: int,
    answers_of: Callable[[list[list[int]]], Sequence[str | None]],
) -> tuple[Samples, np.ndarray]:
    """Up to `rule.votes` = N samples of each prompt, and how many each got, (Q,).

    The samples of a question are the first of those that sampling all N would give. Entries of samples that
    were not drawn are 0, their lengths too. `answers_of` extracts the answers of completions (token ids).
    It looks where `rule` does, but for looks before `at_least` samples. The rule's bound is for the vote over keys;
    rounded and other forms that join a class (`answers.classes`) are counted apart here, which only delays a stop
    unless one of them leads.
    """
    q, n, t = uniforms_QNT.shape
    certainties_QNT: np.ndarray | None = np.zeros((q, n, t), dtype=np.float32)
    samples = Samples(
        np.zeros((q, n, t), dtype=np.int64),
        np.zeros((q, n), dtype=np.int64),
        np.zeros((q, n), dtype=bool),
        np.zeros((q, n, t), dtype=np.float32),
        np.zeros((q, n, t), dtype=np.float32),
    )
    drawn_Q = np.zeros(q, dtype=np.int64)
    answers: list[list[str | None]] = [[] for _ in range(q)]
    active, done = list(range(q)), 0
    for look in (size for size in rule.looks if size >= at_least):
        part = engine.sample([prompts[i] for i in active], uniforms_QNT[active, done:look], sampling)
        width = part.tokens_QNT.shape[2]
        for row, i in enumerate(active):
            samples.lengths_QN[i, done:look] = part.lengths_QN[row]
            samples.finished_QN[i, done:look] = part.finished_QN[row]
            for whole, piece in (
                (samples.tokens_QNT, part.tokens_QNT),
                (samples.logprobs_QNT, part.logprobs_QNT),
                (samples.entropies_QNT, part.entropies_QNT),
            ):
                whole[i, done:look, :width] = piece[row]
            if certainties_QNT is None or part.certainties_QNT is None:
                certainties_QNT = None
            else:
                certainties_QNT[i, done:look, :width] = part.certainties_QNT[row]
            answers[i] += answers_of([samples.ids(i, j) for j in range(done, look)])
            drawn_Q[i] = look
        active, done = [i for i in active if not rule.decided(_counts(answers[i]), look)], look
        if not active:
            break
    return replace(samples, certainties_QNT=certainties_QNT), drawn_Q


def _counts(answers: Sequence[str | None]) -> list[int]:
    """Votes for each key. Unlike classes of keys, what they are does not change with later samples."""
    return list(Counter(key for key in canonical_all(answers) if key is not None).values())
