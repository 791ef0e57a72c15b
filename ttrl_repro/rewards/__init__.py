"""Sources of reward, one file each: what a sample is rewarded for."""

from ttrl_repro.parts import Registry
from ttrl_repro.rewards.base import Reward, Rollouts, agreement
from ttrl_repro.rewards.entropy import Entropy
from ttrl_repro.rewards.format import Format
from ttrl_repro.rewards.frozen import Frozen
from ttrl_repro.rewards.gated import Gated
from ttrl_repro.rewards.majority import Majority
from ttrl_repro.rewards.minority import Minority
from ttrl_repro.rewards.noisy_oracle import NoisyOracle
from ttrl_repro.rewards.oracle import Oracle
from ttrl_repro.rewards.permuted import Permuted
from ttrl_repro.rewards.random import Random
from ttrl_repro.rewards.self_certainty import SelfCertainty
from ttrl_repro.rewards.soft import Soft
from ttrl_repro.rewards.weighted import Weighted

REWARDS: Registry[Reward] = Registry(
    "reward",
    Reward,
    (
        *(Majority, Weighted, Soft, Gated, Frozen),  # of votes
        *(Entropy, SelfCertainty),  # of confidence
        *(Oracle, NoisyOracle),  # of true labels
        *(Random, Format, Minority, Permuted),  # controls
    ),
)

__all__ = [
    "REWARDS",
    "Entropy",
    "Format",
    "Frozen",
    "Gated",
    "Majority",
    "Minority",
    "NoisyOracle",
    "Oracle",
    "Permuted",
    "Random",
    "Reward",
    "Rollouts",
    "SelfCertainty",
    "Soft",
    "Weighted",
    "agreement",
]
