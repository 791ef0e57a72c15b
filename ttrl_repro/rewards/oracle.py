"""Oracle: 1 for the true answer, else 0. The paper's "RL (leakage)" bound; it reads true labels."""

import numpy as np

from ttrl_repro.answers import marked
from ttrl_repro.rewards.base import Reward, Rollouts, agreement


def oracle(rollouts: Rollouts) -> np.ndarray:
    assert rollouts.gold_Q is not None  # the trainer refuses an unlabelled task
    keys_QN = [marked(keys, gold) for keys, gold in zip(rollouts.keys_QN, rollouts.gold_Q, strict=True)]
    return agreement(keys_QN, rollouts.gold_Q)


REWARD = Reward("oracle", oracle, needs_gold=True)
