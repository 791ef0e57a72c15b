"""The processes of a run: one, or as many as `torchrun` or `accelerate launch` started."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import PartialState


def processes() -> PartialState:
    """accelerate's view of the processes: `num_processes`, `is_main_process`, `wait_for_everyone`."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    # The main process evaluates while the others wait at the next collective, longer than the default.
    patience = {"timeout": timedelta(days=1)} if several else {}
    if torch.cuda.is_available():
        return PartialState(**patience)
    return PartialState(cpu=True, **({"backend": "gloo"} if several else {}), **patience)
