"""The metrics of a training step, under the paper's names. docs/metrics.md documents each one.

Metrics that need true labels are None (absent from the record), never 0, where a task has none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import fsum

import numpy as np

from ttrl_repro.algorithms import grpo
from ttrl_repro.answers import marked, right_class
from ttrl_repro.rewards import Rollouts, agreement
from ttrl_repro.votes import Vote


def label_free(rollouts: Rollouts, rewards_QN: np.ndarray) -> dict[str, float]:
    """Metrics of the vote that need no true label, over all N samples."""
    votes = rollouts.votes_Q
    samples = sum(vote.n for vote in votes)
    return {
        "majority_ratio": float(np.mean([vote.majority_ratio for vote in votes])),
        "majority_voting_reward": mean(rewards_QN, rollouts.sampled_QN),
        "vote_entropy": float(np.mean([vote.entropy for vote in votes])),
        "vote_margin": float(np.mean([vote.margin for vote in votes])),
        "tie_rate": float(np.mean([vote.tied > 1 for vote in votes])),
        "abstention_rate": sum(vote.abstained for vote in votes) / samples,
        "top_answer_share": top_answer_share(votes),
        "distinct_answers": float(np.mean([len(vote.counts) for vote in votes])),
    }


def top_answer_share(votes_Q: Sequence[Vote]) -> float:
    """Share of all samples that give the answer most common over all questions, each question weighing the same.

    Answers to different questions are the same where their classes have one key. 0 if all samples abstain.
    """
    shares = defaultdict(list)
    for vote in votes_Q:
        for key, count in vote.counts.items():
            shares[key].append(count / vote.n)
    # Summed exactly, so that the order of the questions does not matter.
    return max((fsum(of_key) for of_key in shares.values()), default=0.0) / len(votes_Q)


def label_based(
    rollouts: Rollouts, gold_Q: Sequence[str], rewards_QN: np.ndarray, trained_QG: np.ndarray
) -> dict[str, float | None]:
    """Metrics that compare with the true labels; `trained_QG` are the indices of the samples trained on."""
    true_QN = agreement([marked(keys, gold) for keys, gold in zip(rollouts.keys_QN, gold_Q, strict=True)], gold_Q)
    sampled_QN = rollouts.sampled_QN
    return {
        "label_accuracy": float(
            np.mean([is_right(vote, gold) for vote, gold in zip(rollouts.votes_Q, gold_Q, strict=True)])
        ),
        "reward_accuracy": mean(rewards_QN == true_QN, sampled_QN),
        "ground_truth_ratio": mean(true_QN, sampled_QN),
        # Under adaptive voting, questions have different numbers of samples: there is no such N.
        **({f"pass@{true_QN.shape[1]}": float(true_QN.any(axis=1).mean())} if sampled_QN.all() else {}),
        "advantage_accuracy": advantage_accuracy(
            np.take_along_axis(rewards_QN, trained_QG, axis=1),
            np.take_along_axis(true_QN, trained_QG, axis=1),
        ),
    }


def mean(values_QN: np.ndarray, sampled_QN: np.ndarray) -> float:
    """Mean over questions of the mean over each one's samples."""
    if sampled_QN.all():
        return float(values_QN.mean())
    rows = zip(values_QN, sampled_QN, strict=True)
    return float(np.mean([values_N[sampled_N].mean() for values_N, sampled_N in rows]))


def is_right(vote: Vote, gold: str) -> bool:
    """Whether the vote's label is the true one."""
    return vote.key is not None and vote.key == right_class(vote.counts, gold)


def advantage_accuracy(rewards_QG: np.ndarray, true_QG: np.ndarray) -> float | None:
    """Share of the advantages' absolute mass that has the sign the true labels would give.

    Under the true labels a group that is all right or all wrong has advantages 0: any push on it counts
    as wrong. None if there is no push at all.
    """
    given, true = grpo.advantages(rewards_QG), grpo.advantages(true_QG)
    mass = np.abs(given).sum()
    if mass == 0:
        return None
    return float(np.abs(given)[np.sign(given) == np.sign(true)].sum() / mass)
