"""Permuted: agreement with the majority label of *another* question of the step.

A control: the labels keep their distribution and their share of agreement keeps its source, but no
question gets its own. What a run gains under it is not taught by the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ttrl_repro.rewards.base import Reward, Rollouts
from ttrl_repro.seeds import generator


class Permuted(Reward):
    """Labels are passed along a random cycle through all questions of the step, so nobody keeps its own."""

    name: Literal["permuted"] = "permuted"

    def targets(self, rollouts: Rollouts) -> Sequence[str | None]:
        """Raises ValueError for a step of a single question (which the trainer refuses beforehand)."""
        n = len(rollouts.votes_Q)
        if n < 2:
            raise ValueError("labels of a single question cannot be permuted")
        cycle = generator(rollouts.seed, "permuted").permutation(n)
        labels: list[str | None] = [None] * n
        for giver, taker in zip(cycle, np.roll(cycle, 1), strict=True):
            labels[taker] = rollouts.votes_Q[giver].key
        return labels
