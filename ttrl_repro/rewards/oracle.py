"""Oracle: 1 for the true answer, else 0. The paper's "RL (leakage)" bound; it reads true labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from ttrl_repro.answers import right_class
from ttrl_repro.rewards.base import Reward, Rollouts


class Oracle(Reward):
    """The trainer refuses it for a task without true labels."""

    name: Literal["oracle"] = "oracle"
    needs_gold: ClassVar[bool] = True

    def targets(self, rollouts: Rollouts) -> Sequence[str | None]:
        """The class of each true label among the samples'; None where no sample is right."""
        assert rollouts.gold_Q is not None
        return [right_class(vote.counts, gold) for vote, gold in zip(rollouts.votes_Q, rollouts.gold_Q, strict=True)]
