"""Sources of reward, one file each: what a sample is rewarded for."""

from ttrl_repro.parts import Registry
from ttrl_repro.rewards.base import Reward, Rollouts, agreement
from ttrl_repro.rewards.format import Format
from ttrl_repro.rewards.majority import Majority
from ttrl_repro.rewards.oracle import Oracle
from ttrl_repro.rewards.permuted import Permuted

REWARDS: Registry[Reward] = Registry("reward", Reward, (Majority, Oracle, Permuted, Format))

__all__ = ["REWARDS", "Format", "Majority", "Oracle", "Permuted", "Reward", "Rollouts", "agreement"]
