"""RLOO, REINFORCE leave-one-out (Kool et al. 2019; for language models Ahmadian et al. 2024, arXiv 2402.14740).

    A_i = r_i - mean of the question's other rewards
    L   = - 1/samples sum_i sum_t min(w_it A_i, clip(w_it, 1 - c, 1 + c) A_i)

A sample's own reward is no part of its baseline, so that the gradient is unbiased; it is that of the whole sequence's
log-probability, hence summed over tokens. A group whose rewards are all equal has advantages 0.

Differences from Ahmadian et al. (and from `trl.RLOOTrainer`): with several updates per rollout the ratio is
each token's, clipped, and not the whole sequence's, whose product over a hundred tokens is nearly always outside of the
bounds; a KL term is part of the loss, not of the reward.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from ttrl_repro.algorithms.base import Algorithm, Loss, leave_one_out


class RLOO(Algorithm):
    """Leave-one-out baseline, loss summed over tokens."""

    name: Literal["rloo"] = "rloo"
    loss: ClassVar[Loss] = "luspo"

    def advantages(self, rewards_QG: np.ndarray) -> np.ndarray:
        """See the module."""
        return leave_one_out(rewards_QG)
