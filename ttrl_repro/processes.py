"""The processes of a run: one, or as many as `torchrun` or `accelerate launch` started."""

from __future__ import annotations

import os

import torch
from accelerate import PartialState


def processes() -> PartialState:
    """accelerate's view of the processes: `num_processes`, `is_main_process`, `wait_for_everyone`."""
    if torch.cuda.is_available():
        return PartialState()
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return PartialState(cpu=True, **({"backend": "gloo"} if several else {}))
