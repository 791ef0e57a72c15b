"""Format: 1 for any answer, else 0. A control: what it gains is format and termination."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ttrl_repro.rewards.base import Reward, Rollouts, filled


class Format(Reward):
    """It has no target."""

    name: Literal["format"] = "format"

    def rewards(self, rollouts: Rollouts) -> np.ndarray:
        """1 where there is an answer."""
        return filled([[float(key is not None) for key in keys] for keys in rollouts.keys_QN], 0.0)
