"""Floating-point operations of sampling and training, counted from the model's shape: what the floor is made of.

Counted: matrix products with the weights (blocks and head), queries with keys, and weights with values; 2 per
multiplication and addition. Not counted, so that the floor lies too low: norms, rotations, exponentials, picking
tokens, the optimizer. A backward pass is twice its forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """Of a Qwen3-architecture model. `attended`: query heads times head_dim, over all layers."""

    block_weights: int
    head_weights: int
    attended: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Of a transformers config."""
        hidden, dim = config.hidden_size, config.head_dim
        attention = hidden * dim * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
        layer = attention + 3 * hidden * config.intermediate_size
        return cls(
            config.num_hidden_layers * layer,
            config.vocab_size * hidden,
            config.num_hidden_layers * config.num_attention_heads * dim,
        )


def sequence(shape: Shape, length: int, before: int = 0, heads: int | None = None) -> float:
    """One forward pass over `length` positions that stand behind `before` others which they attend to.

    Position i attends to itself and all earlier ones. `heads`: positions whose logits are needed (None: all).
    """
    heads = length if heads is None else heads
    pairs = length * before + length * (length + 1) / 2
    return 2.0 * length * shape.block_weights + 2.0 * heads * shape.head_weights + 4.0 * pairs * shape.attended


def sampling(shape: Shape, rows: Sequence[tuple[int, Sequence[int]]]) -> float:
    """Sampling completions of the given lengths after each prompt, which is computed once.

    `rows`: for each question the prompt's length and its completions' lengths. A completion's last token is never
    run: nothing follows it.
    """
    total = 0.0
    for prompt, completions in rows:
        total += sequence(shape, prompt, heads=1)
        total += sum(sequence(shape, length - 1, before=prompt) for length in completions)
    return total


def training(shape: Shape, rows: Sequence[tuple[int, Sequence[int]]]) -> float:
    """Forward and backward over the same rows: each prompt once, a completion's last token not."""
    return 3.0 * sampling(shape, rows)


def padded_sampling(shape: Shape, rows: Sequence[tuple[int, Sequence[int]]]) -> float:
    """The same completions sampled in one batch: every prompt as often as it has completions, all as long as the
    longest, none leaving before the longest has ended."""
    count = sum(len(lengths) for _, lengths in rows)
    prompt, longest = max(prompt for prompt, _ in rows), max(max(lengths, default=1) for _, lengths in rows)
    return count * (sequence(shape, prompt, heads=1) + sequence(shape, longest - 1, before=prompt))


def padded_training(shape: Shape, rows: Sequence[tuple[int, Sequence[int]]]) -> float:
    """Forward and backward over the same completions in one padded batch, every prompt with each of them."""
    count = sum(len(lengths) for _, lengths in rows)
    prompt, longest = max(prompt for prompt, _ in rows), max(max(lengths, default=1) for _, lengths in rows)
    return 3.0 * count * sequence(shape, prompt + longest, heads=longest)
