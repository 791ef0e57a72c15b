"""Majority: 1 for agreeing with the vote over the step's N samples, else 0 (TTRL, section 2)."""

import numpy as np

from ttrl_repro.rewards.base import Reward, Rollouts, agreement


def majority(rollouts: Rollouts) -> np.ndarray:
    """If all samples of a question abstain there is no label, and every reward is 0."""
    return agreement(rollouts.keys_QN, [vote.key for vote in rollouts.votes_Q])


REWARD = Reward("majority", majority)
