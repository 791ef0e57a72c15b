"""Dr. GRPO (Liu et al. 2025, arXiv 2503.20783): GRPO without its two biases.

    A_i = r_i - mean(r)                            over the G samples of a question
    L   = - 1/(samples * rollout.max_new_tokens) sum_i sum_t min(w_it A_i, clip(w_it, 1 - c, 1 + c) A_i)

Not divided by the standard deviation, so that a question on which the samples nearly agree weighs no more than
others; divided by a constant instead of lengths, so that a wrong answer is no better for being long. A group whose
rewards are all equal has advantages 0.

Differences from the paper: none in the formula; advantages are smaller than GRPO's by the standard deviation
(at most 1/2), which Adam's step size hardly sees.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from ttrl_repro.algorithms.base import Algorithm, Loss, centred


class DrGRPO(Algorithm):
    """Centred rewards, loss divided by a constant."""

    name: Literal["dr_grpo"] = "dr_grpo"
    loss: ClassVar[Loss] = "dr_grpo"

    def advantages(self, rewards_QG: np.ndarray) -> np.ndarray:
        """See the module."""
        return centred(rewards_QG)
