"""The trainer of PRIME: a process reward model beside the policy. The formulas are in algorithms/prime.py."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ttrl_repro.adapters import has_adapters
from ttrl_repro.algorithms.prime import PRIME, process_advantages
from ttrl_repro.side_models import SideModel, in_passes, scattered, whitened
from ttrl_repro.trainer import TTRLTrainer
from ttrl_repro.updates import Batch


class PRIMETrainer(TTRLTrainer):
    """TTRL with PRIME. Its two language models start as copies of the base; with adapters one copy is both."""

    algorithm: PRIME

    def __init__(self, model: PreTrainedModel, *arguments: Any, **named: Any) -> None:
        # Before the trainer gets at the model: what it then ties to that very model would come along in a copy.
        reward_model = copy.deepcopy(model)
        self.base = reward_model if has_adapters(model) else copy.deepcopy(model).requires_grad_(False)
        super().__init__(model, *arguments, **named)
        clip = self.experiment.train.gradient_clip
        rate = self.algorithm.reward_model_rate * self.experiment.train.learning_rate
        self.reward_model = SideModel(reward_model, rate, clip, self.accelerator)
        self.side_models["reward_model"] = self.reward_model

    def token_advantages(self, batch: dict[str, Any]) -> torch.Tensor:
        """(B, T), 0 for rows that are not trained on; the reward model takes its update first."""
        assert self._pending is not None
        mask, kept = batch["completion_mask"], self.kept_rows().nonzero()[:, 0]
        outcomes = self.trained_rewards()
        with torch.no_grad(), self.base.disable_adapter() if self.base is self.reward_model.module else nullcontext():
            base = scattered(((part, self._logps(self.base, part)) for part in self._passes(batch, kept)), mask)
        known = {**batch, "base_logps": base, "outcome": outcomes}
        count = self.everywhere(torch.tensor(float(len(kept)), device=mask.device))
        if self.algorithm.reward_model_rate > 0 and count > 0:
            loss = self.reward_model.update(self._losses(known, kept, count))
            self.extra_metrics["reward_model_loss"] = loss
        model = self.reward_model.module
        with torch.no_grad():
            logps = scattered(((part, self._logps(model, part)) for part in self._passes(batch, kept)), mask)
        rewards = self.algorithm.beta * (logps - base) * mask
        if count > 0:
            right = ((rewards.sum(1) > 0) == (outcomes > 0.5))[kept].double().sum()
            self.extra_metrics["reward_model_accuracy"] = self.everywhere(right) / count
        if self.algorithm.normalise:
            largest = rewards.flip(1).cumsum(1).abs().max()
            rewards = rewards / (float(self.accelerator.gather(largest).max()) + 1e-6)
        g = self.experiment.rollout.trained
        shape = (-1, g, mask.shape[1])
        process = process_advantages(
            rewards.double().view(shape).cpu().numpy(), mask.view(shape).cpu().numpy(), self.algorithm.gamma
        )
        outcome = self._mine(self._pending.advantages_QG)[:, None]
        live = torch.zeros_like(mask)
        live[kept] = mask[kept]
        parts = [
            self.algorithm.process_weight * torch.from_numpy(process).to(rewards).view(mask.shape) * live,
            self.algorithm.outcome_weight * outcome * live,
        ]
        mass = [self.everywhere(part.abs().sum()) for part in parts]
        if sum(mass) > 0:
            self.extra_metrics["process_share"] = mass[0] / sum(mass)
        advantages = parts[0] + parts[1]
        return whitened(advantages, live, self.accelerator) if self.algorithm.whiten else advantages

    def _passes(self, batch: Batch, rows: torch.Tensor) -> Iterator[Batch]:
        return in_passes(batch, rows, self.plan.microbatch)

    def _logps(self, model: Any, batch: Batch) -> torch.Tensor:
        """Log-probabilities of the completions' tokens under a model, (b, t)."""
        ids, mask = (torch.cat([batch[f"prompt_{x}"], batch[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
        with self.accelerator.autocast():
            return self.logps_of(model, ids, mask, batch["completion_ids"].shape[1])

    def _losses(self, batch: Batch, rows: torch.Tensor, count: float) -> Iterator[torch.Tensor]:
        for part in self._passes(batch, rows):
            rewards = self.algorithm.beta * (self._logps(self.reward_model.module, part) - part["base_logps"])
            logit = (rewards * part["completion_mask"]).sum(1)
            yield F.binary_cross_entropy_with_logits(logit, part["outcome"], reduction="sum") / count
