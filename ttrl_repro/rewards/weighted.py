"""Weighted majority: agreement with a vote in which samples weigh what the model's confidence in them is.

    label = argmax over classes c of  sum of w_i over the samples i of c
    w_i   = exp(mean over tokens of log p(token))        by: mean_logprob
          = mean over tokens of KL(uniform || p)         by: self_certainty

The geometric mean of a sample's token probabilities is the weight of Wang et al. 2023 (arXiv 2203.11171, table 1,
"weighted sum, normalized"), where it was no better than counting. Self-certainty is that of Kang et al. 2025 (arXiv
2502.18581).

Edge cases: samples without an answer do not vote; a class of weight 0 cannot win; exact ties are broken by a seeded
draw. If nobody votes there is no label.

Differences from those papers: there the vote is the final answer, here it is a label to train on, and the reward is 1
or 0 whatever the winner's weight. Kang et al. vote with powers of ranks (Borda), not with self-certainty itself.
Log-probabilities and distributions are those at the rollout's temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import Literal

from ttrl_repro.rewards.base import Reward, Rollouts
from ttrl_repro.votes import drawn, heaviest


class Weighted(Reward):
    """by: what a sample weighs."""

    name: Literal["weighted"] = "weighted"
    by: Literal["mean_logprob", "self_certainty"] = "mean_logprob"

    @property
    def needs_distributions(self) -> bool:
        """For self-certainty."""
        return self.by == "self_certainty"

    def targets(self, rollouts: Rollouts) -> Sequence[str | None]:
        """The weighted votes' labels."""
        labels: list[str | None] = []
        for question, keys, weights in zip(
            rollouts.question_ids, rollouts.keys_QN, self._weights_QN(rollouts), strict=True
        ):
            _, tied = heaviest(keys, weights)
            labels.append(drawn(tied, rollouts.seed, "weighted", question) if tied else None)
        return labels

    def _weights_QN(self, rollouts: Rollouts) -> Sequence[Sequence[float]]:
        if self.by == "self_certainty":
            assert rollouts.certainties_QN is not None
            # Of a nearly uniform distribution rounding may leave it below 0.
            return [[max(float(certainty), 0.0) for certainty in row] for row in rollouts.certainties_QN]
        assert rollouts.mean_logprobs_QN is not None
        return [[exp(mean) for mean in row] for row in rollouts.mean_logprobs_QN]
