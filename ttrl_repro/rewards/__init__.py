"""Sources of reward, one file each: what a sample is rewarded for agreeing with."""

from ttrl_repro.rewards import format, majority, oracle, permuted
from ttrl_repro.rewards.base import Reward, Rollouts, agreement

REWARDS = {module.REWARD.name: module.REWARD for module in (majority, oracle, permuted, format)}

__all__ = ["REWARDS", "Reward", "Rollouts", "agreement"]
