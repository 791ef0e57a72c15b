"""The rows of an update, arranged so that its forward passes waste little.

An update's loss is a sum over its tokens, so which forward pass a row belongs to changes it by rounding alone,
and rows whose advantage is 0 change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Batch = dict[str, Any]  # TRL's: tensors with a row per sample, and some without dimensions


def rearranged(batches: list[Batch], order_of: Callable[[Batch], torch.Tensor]) -> list[Batch]:
    """The same rows in batches of the same sizes, in the order of `order_of`, without needless padding.

    Prompts (`prompt_*`, (B, P)) are padded on the left; everything else of two dimensions, (B, T), on the
    right. Tensors without dimensions belong to the whole batch and stay.
    """
    sizes = [len(batch["completion_ids"]) for batch in batches]
    rows = {key: torch.cat([b[key] for b in batches]) for key, value in batches[0].items() if value.dim() > 0}
    out = []
    for batch, chosen in zip(batches, order_of(rows).split(sizes), strict=True):
        prompt = int(rows["prompt_mask"][chosen].sum(1).max())
        completion = int(rows["completion_mask"][chosen].sum(1).max())
        new = dict(batch)
        for key, value in rows.items():
            taken = value[chosen]
            if value.dim() == 2:
                taken = taken[:, -prompt:] if key.startswith("prompt_") else taken[:, :completion]
            new[key] = taken
        out.append(new)
    return out


def by_length(rows: Batch) -> torch.Tensor:
    """Rows of similar length together: a padded forward pass computes its longest row's length for all."""
    return rows["completion_mask"].sum(1).argsort(stable=True)


def by_prompt(rows: Batch) -> torch.Tensor:
    """Rows of one prompt together: the native code computes it once for all of them."""
    prompts = rows["prompt_ids"].masked_fill(rows["prompt_mask"] == 0, -1).tolist()
    return torch.tensor(sorted(range(len(prompts)), key=prompts.__getitem__))


def with_signal(batch: Batch) -> tuple[Batch, float]:
    """The rows whose advantage is not 0 (one row, if there is none), and their share of the batch's tokens."""
    advantages = batch["advantages"]
    live = advantages != 0 if advantages.dim() == 1 else (advantages != 0).any(dim=1)
    if bool(live.all()):
        return batch, 1.0
    if not bool(live.any()):
        live[0] = True
    mask = batch["completion_mask"]
    share = int(mask[live].sum()) / int(mask.sum())
    return {key: value[live] if value.dim() > 0 else value for key, value in batch.items()}, share
