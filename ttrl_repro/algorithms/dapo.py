"""DAPO's asymmetric clip (Yu et al. 2025, arXiv 2503.14476) on GRPO's advantages and token-mean loss.

    L = - 1/|tokens| sum_i sum_t min(w_it A_i, clip(w_it, 1 - clip, 1 + clip_high) A_i)

The upper bound is wider, so that improbable tokens of rewarded samples can still grow. It bounds nothing at a step's
first update, where every w_it is 1: with `train.updates_per_step: 1` this is GRPO.

Differences from the paper: no dynamic sampling (questions without signal are left out of the update, and no others
are drawn in their place), and no penalty for overlong samples.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ttrl_repro.algorithms.grpo import GRPO


class DAPO(GRPO):
    """GRPO's advantages; clip_high: the ratio may rise to 1 + clip_high."""

    name: Literal["dapo"] = "dapo"  # type: ignore[assignment]
    clip_high: float = Field(0.28, gt=0)

    @model_validator(mode="after")
    def _wider_above(self) -> DAPO:
        if self.clip_high < self.clip:
            raise ValueError(f"clip_high ({self.clip_high}) must be at least clip ({self.clip})")
        return self

    def trl_arguments(self) -> dict[str, Any]:
        """Both bounds."""
        return {**super().trl_arguments(), "epsilon_high": self.clip_high}
