"""PRIME (Cui et al. 2025, arXiv 2502.01456): token rewards from an implicit process reward model, trained online.

    r_t  = beta (log pi_prm(token_t) - log pi_base(token_t))          the model's reward for token t
    L    = cross-entropy of sigmoid(sum_t r_t) with the sample's outcome reward, which must lie in [0, 1]
    A_t  = process_weight sum_s>=t gamma^(s-t) (r_s - mean of r over the question's other samples)
         + outcome_weight (o - mean of the question's other outcomes)  both leave-one-out (RLOO)

With `normalise` (the released code's `batch_norm`, its default) every r_t is first divided by the largest
|sum_s>=t r_s| of the step, so that the two weights compare. `mean of r` is the mean over samples of each one's mean
over tokens. The process reward model is a language model that starts from the base, so that r is 0 at first. Each step
it takes one update on the trained samples, and then gives the rewards of the same samples ("double forward", the
default of the released code). Advantages are whitened over all tokens (`whiten`), as there. The policy's loss is PPO's
clipped one, token-mean.

Edge case: a question whose outcomes are all equal has outcome advantages 0, and still teaches by its token rewards.

Differences from the released code: no filtering of questions by their accuracy; log-probabilities are those at the
rollout's temperature; one update of the reward model per step, not one per mini-batch, its gradient clipped at
`train.gradient_clip` (10 there). The baseline is the paper's: there a sample's own r_t is also scaled by n / (n - 1).
There the last token has no process reward, and a KL term may be part of the rewards. As there: beta = 0.05, both
weights 5, and a reward model's learning rate of `reward_model_rate` = 2 times the policy's (1e-6 for 5e-7).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from ttrl_repro.algorithms.base import Algorithm, leave_one_out


class PRIME(Algorithm):
    """beta: scale of the token rewards; weights of the two parts; reward_model_rate: times `train.learning_rate`."""

    name: Literal["prime"] = "prime"
    beta: float = Field(0.05, gt=0)
    gamma: float = Field(1.0, ge=0, le=1)
    process_weight: float = Field(5.0, ge=0)
    outcome_weight: float = Field(5.0, ge=0)
    whiten: bool = True
    normalise: bool = True
    reward_model_rate: float = Field(2.0, ge=0)

    side_flops: ClassVar[float] = 10.0  # the base, the reward model's update, and its rewards

    needs_unit_rewards: ClassVar[bool] = True
    trainer: ClassVar[str] = "ttrl_repro.prime_trainer:PRIMETrainer"

    def advantages(self, rewards_QG: np.ndarray) -> np.ndarray:
        """The outcome part of the advantages, unweighted."""
        return leave_one_out(rewards_QG)


def process_advantages(rewards_QGT: np.ndarray, mask_QGT: np.ndarray, gamma: float) -> np.ndarray:
    """Leave-one-out returns of token rewards, (Q, G, T), 0 beyond a row's end."""
    g = rewards_QGT.shape[1]
    means_QG = (rewards_QGT * mask_QGT).sum(axis=2) / mask_QGT.sum(axis=2)
    others_QG = (means_QG.sum(axis=1, keepdims=True) - means_QG) / (g - 1)
    left_QGT = (rewards_QGT - others_QG[..., None]) * mask_QGT
    out = np.zeros_like(left_QGT)
    following = np.zeros(means_QG.shape)
    for t in reversed(range(out.shape[2])):
        out[..., t] = left_QGT[..., t] + gamma * following
        following = out[..., t]
    return out * mask_QGT
