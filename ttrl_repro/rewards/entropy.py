"""Entropy: confidence alone, without a vote. RENT (Prabhudesai et al. 2025, arXiv 2505.22660).

    r_i = - mean over the tokens t of sample i of H(p_t)        H in nats, p_t: what token t was drawn from

Edge case: samples without an answer are rewarded like any other.

Differences from the paper: all tokens count, the end-of-sequence token among them (the paper also tries parts of a
sample, and finds its last tokens to tell most); distributions are those at the rollout's temperature, before `top_p`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from ttrl_repro.rewards.base import Reward, Rollouts, filled


class Entropy(Reward):
    """It has no target. Needs an engine that sees distributions."""

    name: Literal["entropy"] = "entropy"
    binary: ClassVar[bool] = False
    unit: ClassVar[bool] = False

    @property
    def needs_distributions(self) -> bool:
        """-log p of the sampled token, which other engines give in place of the entropy, would be another reward."""
        return True

    def rewards(self, rollouts: Rollouts) -> np.ndarray:
        """See the module."""
        assert rollouts.entropies_QN is not None
        return filled([(-row).tolist() for row in rollouts.entropies_QN], 0.0)
