"""Majority: 1 for agreeing with the vote over the step's N samples, else 0 (TTRL, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ttrl_repro.rewards.base import Reward, Rollouts


class Majority(Reward):
    """If all samples of a question abstain there is no label, and every reward is 0."""

    name: Literal["majority"] = "majority"

    def targets(self, rollouts: Rollouts) -> Sequence[str | None]:
        """The votes' labels."""
        return [vote.key for vote in rollouts.votes_Q]
