"""The trainer of PPO: a critic beside the policy, and advantages per token. The formulas are in algorithms/ppo.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ttrl_repro.algorithms.ppo import PPO, at_last_token, gae
from ttrl_repro.side_models import Critic, SideModel, in_passes, scattered, whitened
from ttrl_repro.trainer import TTRLTrainer
from ttrl_repro.updates import Batch


class PPOTrainer(TTRLTrainer):
    """TTRL with PPO. The critic's values come from before its updates of the step."""

    algorithm: PPO

    def __init__(self, model: PreTrainedModel, *arguments: Any, **named: Any) -> None:
        # Before the trainer gets at the model: what it then ties to that very model would come along in a copy.
        critic = Critic(model)
        super().__init__(model, *arguments, **named)
        clip = self.experiment.train.gradient_clip
        rate = self.algorithm.critic_rate * self.experiment.train.learning_rate
        self.critic = SideModel(critic, rate, clip, self.accelerator)
        self.side_models["critic"] = self.critic

    def token_advantages(self, batch: dict[str, Any]) -> torch.Tensor:
        """(B, T), 0 for rows that are not trained on; the critic then takes its updates on the returns."""
        mask, kept = batch["completion_mask"], self.kept_rows().nonzero()[:, 0]
        rewards = at_last_token(self.trained_rewards().cpu().numpy(), mask.cpu().numpy())
        with torch.no_grad():
            values = scattered(((part, self._values(part)) for part in self._passes(batch, kept)), mask)
        found = gae(
            rewards, values.cpu().double().numpy(), mask.cpu().numpy(), self.algorithm.gamma, self.algorithm.gae_lambda
        )
        advantages = torch.from_numpy(found).to(values)
        live = torch.zeros_like(mask)
        live[kept] = mask[kept]
        advantages = advantages * live
        self._train_critic({**batch, "old_values": values, "returns": advantages + values}, kept)
        return whitened(advantages, live, self.accelerator) if self.algorithm.whiten else advantages

    def _passes(self, batch: Batch, rows: torch.Tensor) -> Iterator[Batch]:
        return in_passes(batch, rows, self.plan.microbatch)

    def _values(self, batch: Batch) -> torch.Tensor:
        with self.accelerator.autocast():
            return self.critic.module(batch)

    def _train_critic(self, batch: Batch, kept: torch.Tensor) -> None:
        """`train.updates_per_step` updates, each on a share of the rows, in the order of the rollout."""
        mask = batch["completion_mask"]
        shares = np.array_split(np.arange(len(mask)), self.experiment.train.updates_per_step)
        losses = []
        for share in shares:
            rows = kept[torch.isin(kept, torch.as_tensor(share, device=kept.device))]
            tokens = self.everywhere(mask[rows].sum())
            if tokens > 0 and self.algorithm.critic_rate > 0:
                losses.append(self.critic.update(self._value_losses(batch, rows, tokens)))
        returns, values = batch["returns"][kept], batch["old_values"][kept]
        weight = mask[kept].double()
        count = self.everywhere(weight.sum())
        if count == 0:
            return  # no question is trained on: there is nothing to tell
        mean = self.everywhere((returns * weight).sum()) / count
        spread = self.everywhere(((returns - mean) ** 2 * weight).sum())
        missed = self.everywhere(((returns - values) ** 2 * weight).sum())
        self.extra_metrics["value_mean"] = self.everywhere((values * weight).sum()) / count
        if losses:
            self.extra_metrics["value_loss"] = float(np.mean(losses))
        if spread > 0:
            self.extra_metrics["explained_variance"] = 1 - missed / spread

    def _value_losses(self, batch: Batch, rows: torch.Tensor, tokens: float) -> Iterator[torch.Tensor]:
        clip = self.algorithm.value_clip
        for part in self._passes(batch, rows):
            values, old, returns = self._values(part), part["old_values"], part["returns"]
            error = (values - returns) ** 2
            if clip is not None:
                error = torch.maximum(error, (torch.clamp(values, old - clip, old + clip) - returns) ** 2)
            yield 0.5 * (error * part["completion_mask"]).sum() / tokens
