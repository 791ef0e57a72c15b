"""Sampling with `model.generate`, as its user would: batches of rows of similar prompt length, the best batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel

from bench.harness import timed
from ttrl_repro.progress import Progress


@dataclass(frozen=True)
class Generate:
    """`model.generate` on `samples` completions of every prompt, `rows` at once."""

    model: PreTrainedModel
    prompts: Sequence[list[int]]
    samples: int
    eos: list[int]
    pad: int
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    rows: int = 480

    def __call__(self) -> list[torch.Tensor]:
        """The new token ids of each batch, (rows, at most max_new_tokens), in order of the prompts' lengths."""
        flat = sorted((prompt for prompt in self.prompts for _ in range(self.samples)), key=len)
        config = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=True,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=0,
            eos_token_id=self.eos,
            pad_token_id=self.pad,
        )
        out = []
        for start in range(0, len(flat), self.rows):
            batch = flat[start : start + self.rows]
            width = max(map(len, batch))
            ids = torch.tensor([[self.pad] * (width - len(prompt)) + prompt for prompt in batch])
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
            with torch.inference_mode():
                out.append(self.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:])
        return out

    def tokens(self) -> int:
        """Sample; the number of tokens up to each completion's end."""
        total = 0
        for new in self():
            ended = torch.isin(new, torch.tensor(self.eos))
            total += int(torch.where(ended.any(1), ended.int().argmax(1) + 1, new.shape[1]).sum())
        return total


def best_rows(sizes: Sequence[int], of: Callable[[int], Generate], progress: Progress) -> int:
    """The batch size at which `model.generate` samples most tokens a second."""
    progress.start("best batch of model.generate", len(sizes), unit="batch")
    seconds = {}
    for rows in sizes:
        generate = of(rows)
        run = timed(lambda _, generate=generate: generate.tokens(), 0)
        seconds[rows] = run.seconds / run.amount
        progress.advance(note=f"{rows} rows")
    progress.finish()
    return min(seconds, key=seconds.__getitem__)
