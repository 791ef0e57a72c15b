import numpy as np
import pytest

from ttrl_repro import metrics
from ttrl_repro.algorithms import grpo
from ttrl_repro.rewards import REWARDS, Rollouts
from ttrl_repro.votes import vote

# Two questions: the vote is wrong on the first (gold 3) and right on the second (gold 8).
ANSWERS = [["1", "1", "2", "2", "2", "4", "5", "6"], ["8", "8", "8", None, "9", "8", "8", "9"]]
GOLD = ["3", "8"]


def rollouts(answers=ANSWERS, gold=None, seed=0):
    return Rollouts([f"q{i}" for i in range(len(answers))], answers, [vote(a) for a in answers], gold, seed)


def test_majority():
    assert REWARDS["majority"].function(rollouts()).tolist() == [
        [0, 0, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 1, 1, 0],
    ]


def test_majority_without_any_answer_teaches_nothing():
    assert REWARDS["majority"].function(rollouts([[None, None]])).tolist() == [[0, 0]]


def test_oracle_is_the_only_reward_that_reads_gold():
    assert REWARDS["oracle"].function(rollouts(gold=GOLD)).tolist() == [[0] * 8, [1, 1, 1, 0, 0, 1, 1, 0]]
    assert [name for name, reward in REWARDS.items() if reward.needs_gold] == ["oracle"]


def test_format():
    assert REWARDS["format"].function(rollouts()).tolist() == [[1] * 8, [1, 1, 1, 0, 1, 1, 1, 1]]


def test_permuted_labels_are_another_question_s():
    # Two questions can only swap: labels are 8 and 2, which neither's samples contain.
    assert REWARDS["permuted"].function(rollouts()).tolist() == [[0] * 8, [0] * 8]
    answers = [[str(q)] * 3 + ["x"] for q in range(7)]
    for seed in range(50):  # nobody is ever given its own label
        assert REWARDS["permuted"].function(rollouts(answers, seed=seed)).sum() == 0
    crossed = [["1", "2"], ["2", "1"]]  # each question's label is an answer of the other
    assert REWARDS["permuted"].function(rollouts(crossed)).sum() == 2
    with pytest.raises(ValueError, match="single question"):
        REWARDS["permuted"].function(rollouts(ANSWERS[:1]))


def test_advantages_by_hand():
    # Mean 1/4; deviations 3/4, -1/4 x 3; variance (9/16 + 3/16) / 3 = 1/4, so std 1/2 (ddof 1).
    found = grpo.advantages(np.array([[1.0, 0, 0, 0], [1, 1, 1, 1]]))
    assert found[0] == pytest.approx(np.array([1.5, -0.5, -0.5, -0.5]) * 0.5 / (0.5 + 1e-4))
    assert found[1].tolist() == [0, 0, 0, 0]  # all agree: no signal


def test_metrics_by_hand():
    given = rollouts()
    rewards = REWARDS["majority"].function(given)
    free = metrics.label_free(given, rewards)
    assert free["majority_ratio"] == (3 / 8 + 5 / 8) / 2
    assert free["majority_voting_reward"] == 8 / 16
    assert free["abstention_rate"] == 1 / 16
    assert free["tie_rate"] == 0
    trained = np.array([[0, 1, 2, 5], [0, 1, 2, 3]])
    based = metrics.label_based(given, GOLD, rewards, trained)
    assert based["label_accuracy"] == 0.5
    # Wrong label: the 5 samples that got 0 are wrong indeed. Right label: all 8.
    assert based["reward_accuracy"] == 13 / 16
    assert based["ground_truth_ratio"] == 5 / 16
    assert based["pass@8"] == 0.5
    # Question 1 pushes (rewards 0 0 1 0) where the truth gives no push: all of its mass is wrong.
    # Question 2 (rewards 1 1 1 0) pushes as the truth would. Both have mass 3 at std 1/2.
    assert based["advantage_accuracy"] == pytest.approx(0.5)


def test_under_a_wrong_label_reward_accuracy_is_arithmetic():
    # 1 - majority ratio - ground-truth ratio, however good or bad the model is (design of the metric).
    answers = [["7", "7", "7", "3", "5", "6", "8", "9"]]
    given = rollouts(answers)
    rewards = REWARDS["majority"].function(given)
    based = metrics.label_based(given, ["3"], rewards, np.array([[0, 1, 2, 3]]))
    assert based["reward_accuracy"] == 1 - 3 / 8 - 1 / 8
    assert based["advantage_accuracy"] == 0  # every positive advantage goes to a wrong answer


def test_advantage_accuracy_is_absent_without_a_push():
    assert metrics.advantage_accuracy(np.zeros((2, 4)), np.ones((2, 4))) is None
