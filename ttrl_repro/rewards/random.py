"""Random: 1 with a fixed probability, whatever the sample says. A control (Shao et al. 2025, arXiv 2506.10947).

    r_i ~ Bernoulli(probability)

What a run gains under it is not taught by the reward. Draws are seeded by step, question and place of the sample. A
sample without an answer is rewarded like any other.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from ttrl_repro.rewards.base import Reward, Rollouts, filled
from ttrl_repro.seeds import generator


class Random(Reward):
    """It has no target. probability: of a reward."""

    name: Literal["random"] = "random"
    probability: float = Field(0.5, gt=0, lt=1)

    def rewards(self, rollouts: Rollouts) -> np.ndarray:
        """See the module."""
        return filled(
            [
                (generator(rollouts.seed, "random", question).random(len(keys)) < self.probability)
                .astype(float)
                .tolist()
                for question, keys in zip(rollouts.question_ids, rollouts.keys_QN, strict=True)
            ],
            0.0,
        )
