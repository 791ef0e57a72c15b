"""TTRL without TRL: one update written out in plain PyTorch, to check the trainer against.

Independent of the trainer's own code: it extracts, votes, rewards, normalises, and differentiates a
loss written as a loop over samples.
"""

from __future__ import annotations

import re
from collections import Counter

import torch
from transformers import PreTrainedModel


def answer(text: str) -> str | None:
    """The content of the last box of a miniature's text (no nesting there)."""
    boxes = re.findall(r"\\boxed\{([^{}]+)\}", text)
    return boxes[-1] if boxes else None


def majority_label(texts: list[str], tie_break: str | None) -> str | None:
    """The most frequent answer; a tie takes `tie_break`, which must be one of the tied."""
    counts = Counter(a for a in map(answer, texts) if a is not None)
    if not counts:
        return None
    top = [a for a, count in counts.items() if count == max(counts.values())]
    if len(top) == 1:
        return top[0]
    assert tie_break in top
    return tie_break


def group_advantages(rewards: list[float]) -> list[float]:
    """(r - mean) / (std + 1e-4), std with ddof = 1."""
    mean = sum(rewards) / len(rewards)
    std = (sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1)) ** 0.5
    return [(r - mean) / (std + 1e-4) for r in rewards]


def token_logprobs(
    model: PreTrainedModel, prompt: list[int], completion: list[int], temperature: float
) -> torch.Tensor:
    """Log-probabilities of the completion's tokens, (T,), with gradient."""
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / temperature
    return torch.log_softmax(logits, -1)[range(len(completion)), completion]


def gradient(
    model: PreTrainedModel,
    groups: list[list[tuple[list[int], list[int], float]]],
    temperature: float,
) -> dict[str, torch.Tensor]:
    """Gradient of the first GRPO update on a rollout: groups of (prompt, completion, reward).

    At the first update the policy is the sampler, so every ratio is 1 (written as exp(l - l.detach()))
    and clipping does nothing. The mean runs over all tokens of the rollout.
    """
    tokens = sum(len(completion) for group in groups for _, completion, _ in group)
    model.zero_grad()
    for group in groups:
        advantages = group_advantages([reward for _, _, reward in group])
        for (prompt, completion, _), advantage in zip(group, advantages, strict=True):
            logp = token_logprobs(model, prompt, completion, temperature)
            ratio = torch.exp(logp - logp.detach())
            (-(ratio * advantage).sum() / tokens).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def clipped_gradient(
    model: PreTrainedModel,
    samples: list[tuple[list[int], list[int], float, list[float]]],
    tokens: float,
    temperature: float,
    clip: float,
) -> tuple[dict[str, torch.Tensor], float]:
    """Gradient of a later update: samples of (prompt, completion, advantage, old log-probabilities).

    Returns it with the share of tokens at which clipping took the gradient away.
    """
    model.zero_grad()
    clipped = 0
    for prompt, completion, advantage, old in samples:
        ratio = torch.exp(token_logprobs(model, prompt, completion, temperature) - torch.tensor(old))
        kept = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
        outside = ((ratio > 1 + clip) & (advantage > 0)) | ((ratio < 1 - clip) & (advantage < 0))
        clipped += int(outside.sum())
        (-kept.sum() / tokens).backward()
    gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return gradient, clipped / sum(len(completion) for _, completion, _, _ in samples)


def policy_gradient(
    model: PreTrainedModel,
    samples: list[tuple[list[int], list[int], float | list[float]]],
    normaliser: float,
    temperature: float,
) -> dict[str, torch.Tensor]:
    """Gradient of -1/normaliser sum_i sum_t A_it log pi(token_it): samples of (prompt, completion, advantages)."""
    model.zero_grad()
    for prompt, completion, advantages in samples:
        logp = token_logprobs(model, prompt, completion, temperature)
        (-(logp * torch.tensor(advantages)).sum() / normaliser).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
