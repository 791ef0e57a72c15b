"""GRPO (Shao et al. 2024), as TTRL ran it.

    A_i = (r_i - mean(r)) / (std(r) + eps)        over the G samples of a question, std with ddof=1
    L   = - 1/|tokens| sum_i sum_t min(w_it A_i, clip(w_it, 1 - c, 1 + c) A_i) + kl * KL(policy || base)
    w_it = pi(token_it) / pi_sampled(token_it)

The mean runs over all tokens of the rollout ("token-mean", as in the released verl scripts), not first
over each sequence. A group whose rewards are all equal has advantages 0 and teaches nothing.

Differences from the released code: eps is TRL's 1e-4 (verl 1e-6), which scales an advantage by at most
0.06 % at G=32; the KL term is off unless `kl` is set (the scripts use 0.001); no dual clip.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ttrl_repro.algorithms.base import Algorithm, centred

EPSILON = 1e-4


class GRPO(Algorithm):
    """Group-normalised advantages, token-mean loss."""

    name: Literal["grpo"] = "grpo"

    def advantages(self, rewards_QG: np.ndarray) -> np.ndarray:
        """See the module; the same that TRL computes."""
        return centred(rewards_QG) / (rewards_QG.std(axis=1, ddof=1, keepdims=True) + EPSILON)
