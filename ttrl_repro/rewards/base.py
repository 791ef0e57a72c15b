"""What a source of reward is given, and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ttrl_repro.parts import Part
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


class Reward(Part):
    """A source of reward. needs_gold: it reads true labels.

    By default a sample is rewarded 1 for the class of its question's target, else 0.
    """

    needs_gold: ClassVar[bool] = False

    def targets(self, rollouts: Rollouts) -> Sequence[str | None]:
        """The class that each question's samples are rewarded for, (Q,); None: no sample is."""
        raise NotImplementedError

    def rewards(self, rollouts: Rollouts) -> np.ndarray:
        """rewards_QN, float64."""
        return agreement(rollouts.keys_QN, self.targets(rollouts))


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
