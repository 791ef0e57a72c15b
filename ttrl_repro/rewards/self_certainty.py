"""Self-certainty: confidence alone, without a vote. Intuitor (Zhao et al. 2025, arXiv 2505.19590).

    r_i = mean over the tokens t of sample i of KL(uniform || p_t)
        = mean over t of ( - log V - mean over the vocabulary j of log p_t(j) )

Unlike the entropy (KL(p || uniform), up to sign and a constant) it looks at what the model deems improbable: it grows
without bound as tokens are ruled out. Its scale depends on V, so compare runs of one model only.

Edge case: samples without an answer are rewarded like any other.

Differences from the paper: distributions are those at the rollout's temperature, before `top_p`; its KL term is
`algorithm.kl` here.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from ttrl_repro.rewards.base import Reward, Rollouts, filled


class SelfCertainty(Reward):
    """It has no target. Needs an engine that sees distributions."""

    name: Literal["self_certainty"] = "self_certainty"
    binary: ClassVar[bool] = False
    unit: ClassVar[bool] = False

    @property
    def needs_distributions(self) -> bool:
        """Always."""
        return True

    def rewards(self, rollouts: Rollouts) -> np.ndarray:
        """See the module."""
        assert rollouts.certainties_QN is not None
        return filled([row.tolist() for row in rollouts.certainties_QN], 0.0)
