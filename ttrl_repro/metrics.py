"""The metrics of a training step, under the paper's names. docs/metrics.md documents each one.

Metrics that need true labels are None (absent from the record), never 0, where a task has none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import fsum

import numpy as np

from ttrl_repro.algorithms.base import centred
from ttrl_repro.answers import marked, right_class, same
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
    rollouts: Rollouts,
    gold_Q: Sequence[str],
    rewards_QN: np.ndarray,
    trained_QG: np.ndarray,
    advantages_QG: np.ndarray,
    binary: bool = True,
) -> dict[str, float | None]:
    """Metrics that compare with the true labels; `trained_QG` are the indices of the samples trained on.

    binary: whether rewards are 0 or 1. Others have no `reward_accuracy`.
    """
    true_QN = true_rewards(rollouts, gold_Q)
    sampled_QN = rollouts.sampled_QN
    return {
        "label_accuracy": float(
            np.mean([is_right(vote, gold) for vote, gold in zip(rollouts.votes_Q, gold_Q, strict=True)])
        ),
        "reward_accuracy": mean(rewards_QN == true_QN, sampled_QN) if binary else None,
        "ground_truth_ratio": mean(true_QN, sampled_QN),
        # Under adaptive voting, questions have different numbers of samples: there is no such N.
        **({f"pass@{true_QN.shape[1]}": float(true_QN.any(axis=1).mean())} if sampled_QN.all() else {}),
        "advantage_accuracy": advantage_accuracy(advantages_QG, np.take_along_axis(true_QN, trained_QG, axis=1)),
    }


def by_label(
    rollouts: Rollouts,
    gold_Q: Sequence[str],
    rewards_QN: np.ndarray,
    targets_Q: Sequence[str | None] | None,
    kept_Q: np.ndarray,
    binary: bool = True,
) -> dict[str, float | None]:
    """Metrics of the labels that a reward teaches, and of its questions by whether that label is right.

    targets_Q: the labels; None for a reward without any, whose questions are divided by the vote's label instead.
    kept_Q: bool (Q,), the questions that are trained on. What has no question to be measured on is None.
    """
    labels_Q = targets_Q if targets_Q is not None else [vote.key for vote in rollouts.votes_Q]
    right_Q = right_labels(rollouts, labels_Q, gold_Q)
    true_QN, sampled_QN = true_rewards(rollouts, gold_Q), rollouts.sampled_QN
    votes = rollouts.votes_Q

    def over(chosen_Q: np.ndarray, values_Q: np.ndarray) -> float | None:
        return float(values_Q[chosen_Q].mean()) if chosen_Q.any() else None

    def reward_accuracy(chosen_Q: np.ndarray) -> float | None:
        if not binary or not chosen_Q.any():
            return None
        return mean((rewards_QN == true_QN)[chosen_Q], sampled_QN[chosen_Q])

    shares = [share_of_a_wrong_answer(vote, gold) for vote, gold in zip(votes, gold_Q, strict=True)]
    return {
        "target_accuracy": float(right_Q.mean()) if targets_Q is not None else None,
        "kept_target_accuracy": over(kept_Q, right_Q) if targets_Q is not None else None,
        "wrong_label_reward_accuracy": reward_accuracy(~right_Q),
        "right_label_reward_accuracy": reward_accuracy(right_Q),
        "wrong_label_majority_ratio": over(~right_Q, np.array([vote.majority_ratio for vote in votes])),
        "wrong_label_vote_entropy": over(~right_Q, np.array([vote.entropy for vote in votes])),
        "confidently_wrong": float(np.mean(np.array(shares) > 0.5)),
    }


def share_of_a_wrong_answer(vote: Vote, gold: str) -> float:
    """Share of all samples that give the most common wrong answer; 0 if there is none."""
    right = right_class(vote.counts, gold)
    return max((count for key, count in vote.counts.items() if key != right), default=0) / vote.n


def true_rewards(rollouts: Rollouts, gold_Q: Sequence[str]) -> np.ndarray:
    """What the true labels would reward, (Q, N): 1 for a right sample, else 0."""
    return agreement([marked(keys, gold) for keys, gold in zip(rollouts.keys_QN, gold_Q, strict=True)], gold_Q)


def right_labels(rollouts: Rollouts, labels_Q: Sequence[str | None], gold_Q: Sequence[str]) -> np.ndarray:
    """Bool (Q,): whether a label is the true one. A question without a label has no right one.

    It is if both mean the same class of the samples; where none of them gave either answer, if they mean the same.
    """
    right = []
    for vote, label, gold in zip(rollouts.votes_Q, labels_Q, gold_Q, strict=True):
        if label is None:
            right.append(False)
            continue
        taught, true = right_class(vote.counts, label), right_class(vote.counts, gold)
        right.append(same(label, gold) if taught is None and true is None else taught == true)
    return np.array(right, dtype=bool)


def mean(values_QN: np.ndarray, sampled_QN: np.ndarray) -> float:
    """Mean over questions of the mean over each one's samples."""
    if sampled_QN.all():
        return float(values_QN.mean())
    rows = zip(values_QN, sampled_QN, strict=True)
    return float(np.mean([values_N[sampled_N].mean() for values_N, sampled_N in rows]))


def is_right(vote: Vote, gold: str) -> bool:
    """Whether the vote's label is the true one."""
    return vote.key is not None and vote.key == right_class(vote.counts, gold)


def advantage_accuracy(advantages_QG: np.ndarray, true_QG: np.ndarray) -> float | None:
    """Share of the advantages' absolute mass that has the sign the true labels would give.

    That is the sign of a sample's true reward minus its question's mean: for a group that is all right or all wrong
    it is 0, and any push on it counts as wrong. None if there is no push at all.
    """
    mass = np.abs(advantages_QG).sum()
    if mass == 0:
        return None
    agreeing = np.sign(advantages_QG) == np.sign(centred(true_QG))
    return float(np.abs(advantages_QG)[agreeing].sum() / mass)
