"""Oracle: 1 for the true answer, else 0. The paper's "RL (leakage)" bound; it reads true labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from ttrl_repro.rewards.base import Reward, Rollouts


class Oracle(Reward):
    """A question without a right sample has rewards 0. The trainer refuses it for a task without true labels."""

    name: Literal["oracle"] = "oracle"
    needs_gold: ClassVar[bool] = True

    def targets(self, rollouts: Rollouts) -> Sequence[str | None]:
        """The true labels."""
        assert rollouts.gold_Q is not None
        return rollouts.gold_Q
