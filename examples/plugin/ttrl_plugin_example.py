"""A reward and an algorithm for ttrl-repro. `pip install` this package, and experiments can name them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from ttrl_repro.algorithms import Algorithm
from ttrl_repro.rewards import Reward, Rollouts


class Shortest(Reward):
    """1 for agreeing with the answer that is shortest to write, among those that `least_votes` samples give; else 0."""

    name: Literal["shortest"] = "shortest"
    least_votes: int = Field(1, ge=1)

    def targets(self, rollouts: Rollouts) -> Sequence[str | None]:
        """Equally short answers: the first in order of the alphabet. No answer with enough votes: no label."""
        counted = [vote.counts.items() for vote in rollouts.votes_Q]
        frequent = [[key for key, count in counts if count >= self.least_votes] for counts in counted]
        return [min(keys, key=lambda key: (len(key), key), default=None) for keys in frequent]


class Reinforce(Algorithm):
    """REINFORCE (Williams 1992): A_i = r_i - b, with b the mean reward of the step's samples, or 0."""

    name: Literal["reinforce"] = "reinforce"
    baseline: Literal["step", "none"] = "step"

    def advantages(self, rewards_QG: np.ndarray) -> np.ndarray:
        """See the class."""
        return rewards_QG - rewards_QG.mean() if self.baseline == "step" else rewards_QG
