"""Networks that train beside the policy, each with an optimizer of its own: a critic, a process reward model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from ttrl_repro.updates import Batch, by_length, rearranged


def unwrapped(model: PreTrainedModel) -> PreTrainedModel:
    """The language model itself, without the adapters' wrapper around it."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model


def cannot_carry_critic(model: PreTrainedModel) -> str | None:
    """Why no critic can be made from this model's hidden states; None if one can."""
    language_model = unwrapped(model)
    if language_model.config.is_encoder_decoder:
        return f"{language_model.config.model_type!r} is an encoder-decoder"
    if language_model.base_model is language_model:
        return f"{type(language_model).__name__} has no trunk apart from its head"
    if not isinstance(getattr(language_model.config.get_text_config(), "hidden_size", None), int):
        return f"the config of {language_model.config.model_type!r} names no hidden_size"
    return None


class Critic(nn.Module):
    """V(s_t) of the state before each token of a completion: a copy of the policy's trunk, and a head of zeros."""

    def __init__(self, policy: PreTrainedModel) -> None:
        super().__init__()
        language_model = unwrapped(copy.deepcopy(policy))
        self.trunk = language_model.base_model
        hidden = language_model.config.get_text_config().hidden_size
        self.head = nn.Linear(hidden, 1, device=policy.device, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, T) fp32; the prompt's last position is the state before the first token."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        hidden = self.trunk(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        before = hidden[:, -batch["completion_ids"].shape[1] - 1 : -1]
        # Under autocast the head would compute in bf16, too coarse for returns and their clip.
        with torch.autocast(before.device.type, enabled=False):
            return self.head(before.float()).squeeze(-1)


class SideModel:
    """A module with AdamW at a constant learning rate, its gradients averaged over the processes."""

    def __init__(self, module: nn.Module, learning_rate: float, gradient_clip: float, accelerator: Accelerator) -> None:
        self.module, self.accelerator, self.gradient_clip = module, accelerator, gradient_clip
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, weight_decay=0.0)

    def update(self, losses: Iterator[torch.Tensor]) -> float:
        """One step on the sum of the losses, each of which has its backward pass before the next is asked for.

        Every process's losses are shares of one loss of all of them: gradients are summed. Returns the whole loss.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.accelerator.device)
        for loss in losses:
            loss.backward()
            total += loss.detach()
        if self.accelerator.num_processes > 1:
            for parameter in self.parameters:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.accelerator.reduce(gradient, reduction="sum")
            total = self.accelerator.reduce(total, reduction="sum")
        nn.utils.clip_grad_norm_(self.parameters, self.gradient_clip)
        self.optimizer.step()
        return float(total)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: what has been trained, and the optimizer."""
        trained = {name for name, parameter in self.module.named_parameters() if parameter.requires_grad}
        weights = {name: value for name, value in self.module.state_dict().items() if name in trained}
        return {"module": weights, "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Back from `state`. Raises ValueError if it belongs to another module."""
        expected, found = self.state()["module"].keys(), state["module"].keys()
        if found != expected:
            differing = ", ".join(sorted(found ^ expected)[:3])
            raise ValueError(f"a checkpoint of another network: only one of the two has {differing}")
        self.module.load_state_dict(state["module"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])


def in_passes(batch: Batch, rows: Sequence[int] | torch.Tensor, size: int) -> Iterator[Batch]:
    """Some rows of a batch in forward passes of at most `size`, sorted by length and without needless padding.

    Each pass has its rows' indices in the batch under `row`.
    """
    chosen = torch.as_tensor(rows, device=batch["completion_ids"].device)
    taken = {key: value[chosen] for key, value in batch.items() if isinstance(value, torch.Tensor) and value.dim() > 0}
    taken["row"] = chosen
    pieces = [{key: value[at : at + size] for key, value in taken.items()} for at in range(0, len(chosen), size)]
    if pieces:
        yield from rearranged(pieces, by_length)


def scattered(passes: Iterator[tuple[Batch, torch.Tensor]], like: torch.Tensor) -> torch.Tensor:
    """Values (b, t) of passes, put back where their rows stand, (B, T); 0 elsewhere."""
    out = torch.zeros(like.shape, device=like.device, dtype=torch.float32)
    for batch, values in passes:
        out[batch["row"], : values.shape[1]] = values.float()
    return out


def whitened(values_BT: torch.Tensor, mask_BT: torch.Tensor, accelerator: Accelerator) -> torch.Tensor:
    """Mean 0 and variance 1 over all processes' tokens, (B, T); all equal: 0."""
    values, mask = values_BT.double(), mask_BT.double()
    sums = torch.stack([mask.sum(), (values * mask).sum(), (values**2 * mask).sum()])
    if accelerator.num_processes > 1:
        sums = accelerator.reduce(sums, reduction="sum")
    count, total, squares = sums.unbind()
    mean = total / count.clamp(min=1)
    variance = (squares / count.clamp(min=1) - mean**2).clamp(min=0)
    return ((values - mean) / (variance + 1e-8).sqrt() * mask).float()
