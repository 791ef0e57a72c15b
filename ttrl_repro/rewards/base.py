"""What a source of reward is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ttrl_repro.votes import Vote


@dataclass(frozen=True)
class Rollouts:
    """The samples of one step: Q questions, N samples each.

    gold_Q: keys of the true labels. Given only to a reward that declares `needs_gold`; None otherwise.
    seed: the seed of this step's reward, for rewards that draw.
    """

    question_ids: Sequence[str]
    keys_QN: Sequence[Sequence[str | None]]
    votes_Q: Sequence[Vote]
    gold_Q: Sequence[str] | None
    seed: int


@dataclass(frozen=True)
class Reward:
    """A source of reward. `function` returns rewards_QN, float64; `needs_gold`: it reads true labels."""

    name: str
    function: Callable[[Rollouts], np.ndarray]
    needs_gold: bool = False


def agreement(keys_QN: Sequence[Sequence[str | None]], label_Q: Sequence[str | None]) -> np.ndarray:
    """1.0 where a sample's key equals its question's label, else 0.0, (Q, N). An abstention is never right."""
    rows = [
        [float(key is not None and key == label) for key in keys] for keys, label in zip(keys_QN, label_Q, strict=True)
    ]
    return np.array(rows, dtype=np.float64)
