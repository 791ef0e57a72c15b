"""PPO (Schulman et al. 2017) with a critic, generalised advantage estimation and value clipping.

    delta_t = r_t + gamma V(s_t+1) - V(s_t)        r_t: the sample's reward at its last token, else 0; V after it is 0
    A_t     = sum_k (gamma lambda)^k delta_t+k     (GAE, Schulman et al. 2016), then whitened over all tokens
    R_t     = A_t + V(s_t)                         before whitening: what the critic learns
    L       = - 1/|tokens| sum min(w_t A_t, clip(w_t, 1 - c, 1 + c) A_t)
    L_V     = 1/2 1/|tokens| sum max((V - R)^2, (clip(V, V_old - value_clip, V_old + value_clip) - R)^2)

s_t is the prompt and the tokens before token t. The critic is a network of its own that starts from the policy's
weights, with a linear head of zeros: V = 0 at first, so that step 1 is REINFORCE with whitened returns. It takes
`train.updates_per_step` updates per rollout, like the policy, with AdamW at the constant learning rate
`critic_rate` x `train.learning_rate`.

Edge cases: a sample cut at `rollout.max_new_tokens` counts as ended there (no bootstrapping), as in verl. A step whose
tokens all have one advantage is whitened to 0.

Differences from the paper's runs: no script of theirs was released. Their preview code (OpenRLHF) names a critic
learning rate of 9e-6 where the policy's is 5e-7: `critic_rate` is 18 here, too. The released
verl code writes every row's reward at the length of the *last* sample, which GRPO does not see and GAE does; here
it is at each sample's own last token. The KL term (`kl`) is one of the loss, not of the rewards.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from ttrl_repro.algorithms.base import Algorithm, centred


class PPO(Algorithm):
    """gamma, gae_lambda: of the advantages; value_clip: None does not clip; whiten: advantages over all tokens."""

    name: Literal["ppo"] = "ppo"
    gamma: float = Field(1.0, ge=0, le=1)
    gae_lambda: float = Field(1.0, ge=0, le=1)
    whiten: bool = True
    value_clip: float | None = Field(0.2, gt=0)
    critic_rate: float = Field(18.0, ge=0)

    side_flops: ClassVar[float] = 8.0  # values, then the critic's update
    needs_critic: ClassVar[bool] = True
    trainer: ClassVar[str] = "ttrl_repro.ppo_trainer:PPOTrainer"

    def advantages(self, rewards_QG: np.ndarray) -> np.ndarray:
        """Rewards against the question's mean: the sign that a critic which knows the question would come to."""
        return centred(rewards_QG)


def gae(
    rewards_BT: np.ndarray, values_BT: np.ndarray, mask_BT: np.ndarray, gamma: float, gae_lambda: float
) -> np.ndarray:
    """Generalised advantages, (B, T), 0 beyond a row's end; `mask_BT` is 1 for its tokens, which come first."""
    out = np.zeros_like(values_BT)
    following, next_value = np.zeros(len(out)), np.zeros(len(out))
    for t in reversed(range(out.shape[1])):
        delta = rewards_BT[:, t] + gamma * next_value - values_BT[:, t]
        out[:, t] = mask_BT[:, t] * (delta + gamma * gae_lambda * following)
        following, next_value = out[:, t], values_BT[:, t] * mask_BT[:, t]
    return out


def at_last_token(rewards_B: np.ndarray, mask_BT: np.ndarray) -> np.ndarray:
    """Rewards at each row's last token, 0 elsewhere, (B, T)."""
    out = np.zeros(mask_BT.shape)
    out[np.arange(len(out)), mask_BT.sum(axis=1).astype(int) - 1] = rewards_B
    return out
