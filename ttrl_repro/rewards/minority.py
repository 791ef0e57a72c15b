"""Minority: agreement with the rarest answer that has votes. A control.

It has the vote's machinery and the samples' own answers, and teaches away from consensus. If rewarding the majority
sharpens what the model believes, this must flatten it.

Edge cases: among equally rare answers a seeded draw decides. If all answers are one, that is the rarest too, and all
who gave it are rewarded. If all samples abstain there is no label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ttrl_repro.rewards.base import Reward, Rollouts
from ttrl_repro.votes import drawn


class Minority(Reward):
    """It has no settings."""

    name: Literal["minority"] = "minority"

    def targets(self, rollouts: Rollouts) -> Sequence[str | None]:
        """The rarest classes."""
        labels: list[str | None] = []
        for question, vote in zip(rollouts.question_ids, rollouts.votes_Q, strict=True):
            least = min(vote.counts.values(), default=0)
            rarest = sorted(key for key, count in vote.counts.items() if count == least)
            labels.append(drawn(rarest, rollouts.seed, "minority", question) if rarest else None)
        return labels
