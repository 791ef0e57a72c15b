"""Soft majority: a sample's reward is the share of the question's N samples that give its answer.

    r_i = (samples whose answer is that of i) / N

This is the reward of EMPO (Zhang et al. 2025, arXiv 2504.05812), the probability of a sample's cluster of meaning,
which lowers the entropy over answers. Against the majority's 1 and 0 the second most common answer is rewarded too,
by its share, so that a narrow vote teaches little.

Edge case: a sample without an answer has reward 0; it counts in N.

Differences from EMPO: shares are of all N votes, not of the trained samples; questions whose entropy over answers is
very high or very low are not left out (there: two thresholds; `gated` leaves out the former); its clusters of
free-form answers, made by a second model, have no counterpart here.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from ttrl_repro.rewards.base import Reward, Rollouts, filled


class Soft(Reward):
    """It has no target."""

    name: Literal["soft"] = "soft"
    binary: ClassVar[bool] = False

    def rewards(self, rollouts: Rollouts) -> np.ndarray:
        """See the module."""
        return filled(
            [
                [0.0 if key is None else vote.counts[key] / vote.n for key in keys]
                for keys, vote in zip(rollouts.keys_QN, rollouts.votes_Q, strict=True)
            ],
            0.0,
        )
