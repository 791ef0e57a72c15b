"""What a source of reward is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ttrl_repro.votes import Vote


@dataclass(frozen=True)
class Rollouts:
    """The samples of one step: Q questions, N samples each, or fewer where a vote was decided early.

    keys_QN: the class of every sample, as voted; None for an abstention.
    gold_Q: keys of the true labels. Given only to a reward that declares `needs_gold`; None otherwise.
    seed: the seed of this step's reward, for rewards that draw.
    """

    question_ids: Sequence[str]
    keys_QN: Sequence[Sequence[str | None]]
    votes_Q: Sequence[Vote]
    gold_Q: Sequence[str] | None
    seed: int

    @property
    def sampled_QN(self) -> np.ndarray:
        """Bool (Q, N), N the most samples of a question: whether there is such a sample."""
        return filled([[True] * len(keys) for keys in self.keys_QN], False)


@dataclass(frozen=True)
class Reward:
    """A source of reward. `function` returns rewards_QN, float64; `needs_gold`: it reads true labels."""

    name: str
    function: Callable[[Rollouts], np.ndarray]
    needs_gold: bool = False


def agreement(keys_QN: Sequence[Sequence[str | None]], label_Q: Sequence[str | None]) -> np.ndarray:
    """1.0 where a sample's key equals its question's label, else 0.0, (Q, N). An abstention is never right."""
    return filled(
        [
            [float(key is not None and key == label) for key in keys]
            for keys, label in zip(keys_QN, label_Q, strict=True)
        ],
        0.0,
    )


def filled(rows: Sequence[Sequence[float]], value: float) -> np.ndarray:
    """Rows of different lengths as one array, (Q, N), with `value` where a row has ended."""
    width = max(map(len, rows), default=0)
    return np.array([[*row, *[value] * (width - len(row))] for row in rows])
