"""Gated majority: the majority reward, on questions whose majority ratio reaches `least_ratio`; no other is trained on.

The released TTRL code has such a gate at one half, commented out. It is what weak consensus calls for (RESTRAIN, arXiv
2510.02172, lowers the weight of such questions): labels that few samples agree on are mostly wrong. `kept_rate` in the
metrics is the share of questions that pass, `kept_target_accuracy` how many of their labels are right.

Edge cases: a ratio equal to `least_ratio` passes. The ratio counts samples without an answer, as in all metrics. A step
on which no question passes changes the weights by the optimizer's momentum alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from ttrl_repro.rewards.base import Reward, Rollouts


class Gated(Reward):
    """least_ratio: share of a question's N samples that must agree with the vote."""

    name: Literal["gated"] = "gated"
    least_ratio: float = Field(0.5, gt=0, le=1)

    def targets(self, rollouts: Rollouts) -> Sequence[str | None]:
        """The votes' labels, also of questions that are not trained on."""
        return [vote.key for vote in rollouts.votes_Q]

    def keeps(self, rollouts: Rollouts) -> np.ndarray:
        """Whether the majority is large enough."""
        return np.array([vote.majority_ratio >= self.least_ratio for vote in rollouts.votes_Q])
