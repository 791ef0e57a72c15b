"""Format: 1 for any boxed answer, else 0. A control: what it gains is format and termination."""

import numpy as np

from ttrl_repro.rewards.base import Reward, Rollouts


def boxed(rollouts: Rollouts) -> np.ndarray:
    return np.array([[float(key is not None) for key in keys] for keys in rollouts.keys_QN])


REWARD = Reward("format", boxed)
