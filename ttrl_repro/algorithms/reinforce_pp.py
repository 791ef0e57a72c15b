"""REINFORCE++ (Hu 2025, arXiv 2501.03262): no baseline per question, advantages normalised over the whole rollout.

    A_i = (r_i - mean(r)) / (std(r) + eps)        over all Q x G samples of the step, std with ddof=1
    L   = - 1/|tokens| sum_i sum_t min(w_it A_i, clip(w_it, 1 - c, 1 + c) A_i)

A question on which all samples agree teaches here: it is pushed up as a whole, since its rewards are above the
rollout's mean. That is what sets it apart under a majority vote, where confident questions have the higher rewards. All
rewards equal: advantages 0.

Differences from the paper: the KL penalty, inside the reward there, is a term of the loss (`kl`, off), which with
gamma = 1 makes every token of a sample have the sample's advantage.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ttrl_repro.algorithms.base import Algorithm

EPSILON = 1e-8


class ReinforcePP(Algorithm):
    """Rewards normalised over all questions."""

    name: Literal["reinforce_pp"] = "reinforce_pp"

    def advantages(self, rewards_QG: np.ndarray) -> np.ndarray:
        """See the module."""
        if np.ptp(rewards_QG) == 0:
            return np.zeros(rewards_QG.shape)  # exactly, whatever rounding makes of the mean
        return (rewards_QG - rewards_QG.mean()) / (rewards_QG.std(ddof=1) + EPSILON)
