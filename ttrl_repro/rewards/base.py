"""What a source of reward is given, and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ttrl_repro.answers import right_class
from ttrl_repro.parts import Part
from ttrl_repro.votes import Vote


@dataclass(frozen=True)
class Rollouts:
    """The samples of one step: Q questions, N samples each, or fewer where a vote was decided early.

    keys_QN: the class of every sample, as voted; None for an abstention.
    gold_Q: keys of the true labels. Given only to a reward that declares `needs_gold`; None otherwise.
    seed: the seed of this step's reward, for rewards that draw anew at every step.
    run_seed: the same at every step of a run, for rewards that draw once.
    mean_logprobs_QN: mean over a sample's tokens of their log-probability, at the rollout's temperature.
    entropies_QN: mean over a sample's tokens of the entropy, in nats, of the distribution that each came from.
    certainties_QN: the same of KL(uniform || p), self-certainty; None from an engine that sees no distributions.
    frozen_Q: keys of the labels that were voted before training; None for one that nobody voted on. Given only to a
    reward that declares `needs_frozen`; None otherwise.
    """

    question_ids: Sequence[str]
    keys_QN: Sequence[Sequence[str | None]]
    votes_Q: Sequence[Vote]
    gold_Q: Sequence[str] | None
    seed: int
    run_seed: int = 0
    mean_logprobs_QN: Sequence[np.ndarray] | None = None
    entropies_QN: Sequence[np.ndarray] | None = None
    certainties_QN: Sequence[np.ndarray] | None = None
    frozen_Q: Sequence[str | None] | None = None

    @property
    def sampled_QN(self) -> np.ndarray:
        """Bool (Q, N), N the most samples of a question: whether there is such a sample."""
        return filled([[True] * len(keys) for keys in self.keys_QN], False)


class Reward(Part):
    """A source of reward. By default a sample is rewarded 1 for the answer of its question's target, else 0.

    needs_gold: it reads true labels. needs_frozen: it reads labels voted before training. binary: every reward is 0 or
    1, so that it can be right or wrong. unit: every reward lies in [0, 1].
    """

    needs_gold: ClassVar[bool] = False
    needs_frozen: ClassVar[bool] = False
    binary: ClassVar[bool] = True
    unit: ClassVar[bool] = True

    @property
    def needs_distributions(self) -> bool:
        """Whether it reads entropies or certainties, which engines that see no distributions do not give."""
        return False

    @property
    def has_targets(self) -> bool:
        """Whether it rewards agreement with labels, which `targets` then gives."""
        return type(self).targets is not Reward.targets

    def targets(self, rollouts: Rollouts) -> Sequence[str | None] | None:
        """The key of the label that each question's samples are rewarded for, (Q,); None: no sample is.

        A label need not be one of the samples' classes. Without labels, for a reward of another kind: None.
        """
        return None

    def rewards(self, rollouts: Rollouts) -> np.ndarray:
        """rewards_QN, float64; 0 where a question has no such sample."""
        targets_Q = self.targets(rollouts)
        if targets_Q is None:
            raise NotImplementedError(f"reward {self.name!r} defines neither targets nor rewards")
        sampled_Q = [
            right_class(vote.counts, target) if target is not None else None
            for vote, target in zip(rollouts.votes_Q, targets_Q, strict=True)
        ]
        return agreement(rollouts.keys_QN, sampled_Q)

    def keeps(self, rollouts: Rollouts) -> np.ndarray:
        """Bool (Q,): whether a question is trained on at this step. By default every one is."""
        return np.ones(len(rollouts.question_ids), dtype=bool)


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
