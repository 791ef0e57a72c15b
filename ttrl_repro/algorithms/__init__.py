"""RL algorithms, one file each. Their numbers are NumPy's; what needs PyTorch is in the trainers that they name."""

from ttrl_repro.algorithms.base import Algorithm
from ttrl_repro.algorithms.dapo import DAPO
from ttrl_repro.algorithms.dr_grpo import DrGRPO
from ttrl_repro.algorithms.grpo import GRPO
from ttrl_repro.algorithms.ppo import PPO
from ttrl_repro.algorithms.prime import PRIME
from ttrl_repro.algorithms.reinforce_pp import ReinforcePP
from ttrl_repro.algorithms.rloo import RLOO
from ttrl_repro.parts import Registry

ALGORITHMS: Registry[Algorithm] = Registry("algorithm", Algorithm, (GRPO, DrGRPO, DAPO, RLOO, ReinforcePP, PPO, PRIME))

__all__ = ["ALGORITHMS", "DAPO", "GRPO", "PPO", "PRIME", "RLOO", "Algorithm", "DrGRPO", "ReinforcePP"]
