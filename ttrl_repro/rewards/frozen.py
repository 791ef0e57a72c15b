"""Frozen: agreement with labels that were voted once, before training, by the base.

What TTRL adds to self-training on fixed pseudo-labels is that it votes anew at every step: the difference between
this reward and `majority`. The trainer samples `rollout.votes` answers to every question of the task before its first
step, votes, and keeps the labels in `frozen_labels.json` of the record, where a resumed run finds them.

Edge cases: a question on which every sample abstained has no label, and rewards 0 for the whole run. The label is
compared with a step's answers as a true label is: by what they mean, not by how they are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from ttrl_repro.rewards.base import Reward, Rollouts


class Frozen(Reward):
    """It has no settings."""

    name: Literal["frozen"] = "frozen"
    needs_frozen: ClassVar[bool] = True

    def targets(self, rollouts: Rollouts) -> Sequence[str | None]:
        """The labels from before training."""
        assert rollouts.frozen_Q is not None
        return rollouts.frozen_Q
