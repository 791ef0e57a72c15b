"""What an RL algorithm is: from rewards to advantages, and the settings that make TRL compute the loss.

Shapes: Q questions, G trained samples each, B rows of a process's batch, T tokens.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ttrl_repro.parts import Part

# Of TRL's losses, those that we use: how the terms of tokens, l_it, become one number.
Loss = Literal[
    "dapo",  # sum l_it / tokens of the rollout
    "dr_grpo",  # sum l_it / (samples x rollout.max_new_tokens)
    "luspo",  # sum l_it / samples
]


class Algorithm(Part):
    """An RL algorithm with advantages per sample: TRL's clipped policy loss with ours in it.

    clip: half-width of the probability ratio's trust region. kl: weight of a KL term, KL(policy || base) by the
    estimator k3 (Schulman 2020), added to the loss (0: none).
    """

    clip: float = Field(0.2, gt=0, lt=1)
    kl: float = Field(0.0, ge=0)

    loss: ClassVar[Loss] = "dapo"
    needs_critic: ClassVar[bool] = False
    needs_unit_rewards: ClassVar[bool] = False  # rewards that lie in [0, 1]
    # FLOPs per parameter and trained token of networks beside the policy: 2 forward, 6 forward and backward.
    side_flops: ClassVar[float] = 0.0
    # "module:class" of the trainer; named, not imported, so that reading a config loads no PyTorch.
    trainer: ClassVar[str] = "ttrl_repro.trainer:TTRLTrainer"

    def advantages(self, rewards_QG: np.ndarray) -> np.ndarray:
        """(Q, G) float64, from the rewards of all processes' questions; all 0 where nothing is to be learned."""
        raise NotImplementedError

    def trl_arguments(self) -> dict[str, Any]:
        """The fields of `trl.GRPOConfig` that make TRL compute the loss."""
        return {"loss_type": self.loss, "epsilon": self.clip, "beta": self.kl}

    def trainer_class(self) -> Any:
        """The class that trains with this algorithm."""
        module, _, name = self.trainer.partition(":")
        return getattr(import_module(module), name)


def centred(rewards_QG: np.ndarray) -> np.ndarray:
    """r_i - mean(r) over each question's samples, (Q, G)."""
    # Exactly 0 where all rewards are equal, whatever rounding makes of their mean.
    equal_Q1 = np.ptp(rewards_QG, axis=1, keepdims=True) == 0
    return np.where(equal_Q1, 0.0, rewards_QG - rewards_QG.mean(axis=1, keepdims=True))


def leave_one_out(rewards_QG: np.ndarray) -> np.ndarray:
    """r_i minus the mean of the question's other samples, (Q, G); G must be 2 or more."""
    g = rewards_QG.shape[1]
    return centred(rewards_QG) * g / (g - 1)
