from dataclasses import replace
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrl_repro import metrics
from ttrl_repro.algorithms import GRPO
from ttrl_repro.answers import canonical
from ttrl_repro.rewards import REWARDS, Rollouts
from ttrl_repro.votes import vote

# Two questions: the vote is wrong on the first (gold 3) and right on the second (gold 8).
ANSWERS = [["1", "1", "2", "2", "2", "4", "5", "6"], ["8", "8", "8", None, "9", "8", "8", "9"]]
GOLD = ["3", "8"]


def rollouts(answers=ANSWERS, gold=None, seed=0, run_seed=0, frozen=None, **statistics):
    votes = [vote(a) for a in answers]
    arrays = {name: [np.array(row, dtype=float) for row in rows] for name, rows in statistics.items()}
    ids = [f"q{i}" for i in range(len(answers))]
    return Rollouts(ids, [v.keys for v in votes], votes, gold, seed, run_seed, frozen_Q=frozen, **arrays)


def reward(name, **settings):
    return REWARDS.make({"name": name, **settings})


# -- rewards of votes --------------------------------------------------------------------------------


def test_majority():
    assert reward("majority").rewards(rollouts()).tolist() == [
        [0, 0, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 1, 1, 0],
    ]


def test_majority_without_any_answer_teaches_nothing():
    assert reward("majority").rewards(rollouts([[None, None]])).tolist() == [[0, 0]]


def test_weighted_majority_by_log_probability():
    # By count 2 wins with 3 votes of 8. By weight 1 has .9 + .9 = 1.8, 2 has .5 x 3 = 1.5.
    likely = [[log(p) for p in (0.9, 0.9, 0.5, 0.5, 0.5, 0.1, 0.1, 0.1)], [log(0.5)] * 8]
    found = rollouts(mean_logprobs_QN=likely)
    assert reward("weighted").targets(found) == ["1", "8"]
    assert reward("weighted").rewards(found)[0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    # An abstention weighs nothing, however likely: its sample would outweigh all others here.
    unsure = rollouts([["1", "2", "2", None]], mean_logprobs_QN=[[log(0.9), log(0.4), log(0.4), 0.0]])
    assert reward("weighted").targets(unsure) == ["1"]


def test_weighted_majority_by_self_certainty():
    weighted = reward("weighted", by="self_certainty")
    # 1 has 3 + 3 = 6, 2 has 1 x 3.
    assert weighted.targets(rollouts(certainties_QN=[[3, 3, 1, 1, 1, 0, 0, 0], [1] * 8])) == ["1", "8"]
    # Certain of nothing: no weight, no label, no reward. -1e-7 is what rounding may leave of 0.
    nothing = rollouts([["1", "1", "2"]], certainties_QN=[[0, 0, -1e-7]])
    assert weighted.targets(nothing) == [None]
    assert weighted.rewards(nothing).tolist() == [[0, 0, 0]]
    # 1 + 1 against 2: an exact tie, broken by the step's seed.
    tied = [rollouts([["1", "1", "2"]], seed=seed, certainties_QN=[[1, 1, 2]]) for seed in range(40)]
    assert {weighted.targets(one)[0] for one in tied} == {"1", "2"}
    assert weighted.needs_distributions
    assert not reward("weighted").needs_distributions


def test_soft_majority_is_the_share_of_the_answer():
    assert reward("soft").rewards(rollouts()).tolist() == [
        [2 / 8, 2 / 8, 3 / 8, 3 / 8, 3 / 8, 1 / 8, 1 / 8, 1 / 8],
        [5 / 8, 5 / 8, 5 / 8, 0, 2 / 8, 5 / 8, 5 / 8, 2 / 8],  # the abstention counts in N and gets nothing
    ]


@pytest.mark.parametrize(
    ("least_ratio", "kept"),
    [(0.5, [False, True]), (3 / 8, [True, True]), (0.7, [False, False]), (5 / 8, [False, True])],
)
def test_gated_majority_keeps_questions_by_their_majority_ratio(least_ratio, kept):
    gated = reward("gated", least_ratio=least_ratio)  # the ratios are 3/8 and 5/8; equal passes
    assert gated.keeps(rollouts()).tolist() == kept
    assert gated.rewards(rollouts()).tolist() == reward("majority").rewards(rollouts()).tolist()


def test_other_rewards_keep_every_question():
    for name in REWARDS.own:
        if name != "gated":
            assert make(name).keeps(rollouts(gold=GOLD)).tolist() == [True, True], name


def test_frozen_labels_are_compared_by_what_they_mean():
    frozen = reward("frozen")
    assert frozen.rewards(rollouts(frozen=["1", None])).tolist() == [[1, 1, 0, 0, 0, 0, 0, 0], [0] * 8]
    # The label 1/3 from before; now it is only written as a decimal, which is a class of its own.
    assert frozen.rewards(rollouts([["0.3333", "0.5", None]], frozen=["1/3"])).tolist() == [[1, 0, 0]]


# -- rewards of confidence ---------------------------------------------------------------------------


def test_entropy_and_self_certainty_reward_any_sample():
    given = rollouts([["1", None]], entropies_QN=[[0.5, 2.0]], certainties_QN=[[3.0, 0.25]])
    assert reward("entropy").rewards(given).tolist() == [[-0.5, -2.0]]
    assert reward("self_certainty").rewards(given).tolist() == [[3.0, 0.25]]
    for name in ("entropy", "self_certainty", "soft"):
        assert not reward(name).binary
        assert not reward(name).has_targets


# -- rewards of true labels --------------------------------------------------------------------------


def test_oracle():
    assert reward("oracle").rewards(rollouts(gold=GOLD)).tolist() == [[0] * 8, [1, 1, 1, 0, 0, 1, 1, 0]]


def test_only_the_oracles_read_gold():
    assert [name for name in REWARDS.own if REWARDS.get(name).needs_gold] == ["oracle", "noisy_oracle"]


def test_noisy_oracle_that_is_always_right_is_the_oracle():
    given = rollouts(gold=GOLD)
    assert reward("noisy_oracle", correct=1).rewards(given).tolist() == reward("oracle").rewards(given).tolist()


def test_noisy_oracle_that_is_always_wrong():
    modal = reward("noisy_oracle", correct=0, wrong="modal")
    # The most common wrong answers: 2 with three votes, 9 with two. 8 is right, and has more.
    assert modal.targets(rollouts(gold=GOLD)) == ["2", "9"]
    # Nothing wrong to be taught: no label, and no reward for the right answer either.
    assert modal.rewards(rollouts([["8", "8", None]], gold=["8"])).tolist() == [[0, 0, 0]]
    assert modal.targets(rollouts([[None, None]], gold=["8"])) == [None]
    # Of equally common ones the same one at every step of a run, another one in another run.
    tied = [["1", "1", "2", "2", "3"]]
    runs = [{modal.targets(rollouts(tied, ["3"], s, r))[0] for s in range(9)} for r in range(40)]
    assert all(len(labels) == 1 for labels in runs)
    assert set.union(*runs) == {"1", "2"}


def test_noisy_oracle_s_random_wrong_answers():
    scattered = reward("noisy_oracle", correct=0, wrong="random")
    found = [scattered.targets(rollouts(gold=GOLD, run_seed=seed)) for seed in range(500)]
    for key in ("1", "2", "4", "5", "6"):  # a fifth each, whatever their votes: 100, give or take 4 x 8.9
        assert 64 < [first for first, _ in found].count(key) < 136
    assert {second for _, second in found} == {"9"}
    # The label stays while it is sampled: others may go.
    for seed in range(30):
        (label,) = scattered.targets(rollouts(ANSWERS[:1], GOLD[:1], run_seed=seed))
        fewer = [[a for a in ANSWERS[0] if a in (label, "4")]]
        assert scattered.targets(rollouts(fewer, GOLD[:1], seed=7, run_seed=seed)) in ([label], ["4"])
        alone = [[a for a in ANSWERS[0] if a == label]]
        assert scattered.targets(rollouts(alone, GOLD[:1], seed=8, run_seed=seed)) == [label]


def test_noisy_oracle_draws_once_per_question_and_run():
    answers, gold = [["1", "2"]] * 1000, ["1"] * 1000

    def right(correct, seed=0, run_seed=0):
        return [
            t == "1" for t in reward("noisy_oracle", correct=correct).targets(rollouts(answers, gold, seed, run_seed))
        ]

    assert 642 < sum(right(0.7)) < 758  # 4 standard deviations of 14.5 around 700
    assert right(0.7) == right(0.7, seed=1)  # another step
    assert right(0.7) != right(0.7, run_seed=1)
    assert all(high or not low for low, high in zip(right(0.3), right(0.7), strict=True))


# -- controls ----------------------------------------------------------------------------------------


def test_random_is_a_coin_for_every_sample_whatever_it_says():
    coin = reward("random", probability=0.25)
    found = coin.rewards(rollouts([["1"] * 64] * 50))
    assert 680 < found.sum() < 920  # 4 standard deviations of 24.5 around a quarter of 3200, and some
    assert coin.rewards(rollouts([[None] * 64] * 50)).tolist() == found.tolist()
    assert coin.rewards(rollouts([["1"] * 64] * 50, seed=1)).tolist() != found.tolist()
    assert set(found.ravel()) == {0.0, 1.0}
    # Of questions with different numbers of samples, places beyond the end are 0.
    assert coin.rewards(rollouts([["1"] * 64, ["1"]]))[1, 1:].sum() == 0


def test_format():
    assert reward("format").rewards(rollouts()).tolist() == [[1] * 8, [1, 1, 1, 0, 1, 1, 1, 1]]


def test_minority_is_the_rarest_answer_with_votes():
    labels = [reward("minority").targets(rollouts(seed=seed)) for seed in range(60)]
    assert {first for first, _ in labels} == {"4", "5", "6"}  # one vote each: a draw
    assert {second for _, second in labels} == {"9"}
    unanimous = rollouts([["8", "8", None], [None, None, None]])
    assert reward("minority").rewards(unanimous).tolist() == [[1, 1, 0], [0, 0, 0]]


def test_permuted_labels_are_another_question_s():
    # Two questions can only swap: labels are 8 and 2, which neither's samples contain.
    assert reward("permuted").rewards(rollouts()).tolist() == [[0] * 8, [0] * 8]
    answers = [[str(q)] * 3 + ["x"] for q in range(7)]
    for seed in range(50):  # nobody is ever given its own label
        assert reward("permuted").rewards(rollouts(answers, seed=seed)).sum() == 0
    crossed = [["1", "2"], ["2", "1"]]  # each question's label is an answer of the other
    assert reward("permuted").rewards(rollouts(crossed)).sum() == 2
    with pytest.raises(ValueError, match="single question"):
        reward("permuted").rewards(rollouts(ANSWERS[:1]))


# -- what holds for every reward ---------------------------------------------------------------------

WRITTEN = ["1", "2", "3", "1/3", "0.3333", "x", None]
SAMPLE = st.tuples(st.sampled_from(WRITTEN), st.floats(-5, 0), st.floats(0, 3), st.floats(0, 9))
QUESTIONS = st.lists(st.lists(SAMPLE, min_size=1, max_size=9), min_size=2, max_size=4)
VARIANTS = [*((name, {}) for name in REWARDS.own), ("weighted", {"by": "self_certainty"}),
            ("noisy_oracle", {"wrong": "random"})]  # fmt: skip


def make(name, **settings):
    return reward(name, **({"correct": 0.5} if name == "noisy_oracle" else {}), **settings)


def of_samples(questions, seed=0, gold="1"):
    """Rollouts whose samples are (answer, log-probability, entropy, certainty)."""
    columns = [[[sample[i] for sample in samples] for samples in questions] for i in range(4)]
    return rollouts(
        columns[0], [gold] * len(questions), seed, run_seed=seed, frozen=["1/3"] * len(questions),
        mean_logprobs_QN=columns[1], entropies_QN=columns[2], certainties_QN=columns[3],
    )  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
@given(questions=QUESTIONS, seed=st.integers(0, 5), shuffler=st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_matter(name, settings, questions, seed, shuffler):
    orders = [shuffler.sample(range(len(samples)), len(samples)) for samples in questions]
    shuffled = [[samples[i] for i in order] for samples, order in zip(questions, orders, strict=True)]
    one, other = of_samples(questions, seed), of_samples(shuffled, seed)
    source = make(name, **settings)
    assert source.targets(one) == source.targets(other)
    assert source.keeps(one).tolist() == source.keeps(other).tolist()
    rewards_QN, others_QN = source.rewards(one), source.rewards(other)
    assert rewards_QN.shape == one.sampled_QN.shape
    for q, order in enumerate(orders):
        # A coin belongs to a sample's place, every other reward to the sample.
        expected = rewards_QN[q, : len(order)] if name == "random" else rewards_QN[q, order]
        assert others_QN[q, : len(order)].tolist() == expected.tolist()
        assert others_QN[q, len(order) :].sum() == 0


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
@given(questions=QUESTIONS, seed=st.integers(0, 5))
def test_true_labels_decide_nothing_but_the_oracles(name, settings, questions, seed):
    source = make(name, **settings)
    if source.needs_gold:
        assert name in ("oracle", "noisy_oracle")
        return
    one, other = of_samples(questions, seed, gold="1"), of_samples(questions, seed, gold="2")
    none = replace(one, gold_Q=None)  # what the trainer gives it
    for given_ in (other, none):
        assert source.rewards(one).tolist() == source.rewards(given_).tolist()
        assert source.targets(one) == source.targets(given_)
        assert source.keeps(one).tolist() == source.keeps(given_).tolist()


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
@given(questions=QUESTIONS, seed=st.integers(0, 5))
def test_rewards_of_answers_reward_no_abstention_and_lie_where_they_say(name, settings, questions, seed):
    source, given_ = make(name, **settings), of_samples(questions, seed)
    rewards_QN = source.rewards(given_)
    if source.binary:
        assert set(rewards_QN.ravel()) <= {0.0, 1.0}
    if source.has_targets or name in ("soft", "format"):
        for keys, row in zip(given_.keys_QN, rewards_QN, strict=True):
            assert all(value == 0 for key, value in zip(keys, row, strict=False) if key is None)
    if source.has_targets:  # one answer at most is rewarded, and all who gave it
        for keys, row in zip(given_.keys_QN, rewards_QN, strict=True):
            rewarded = {key for key, value in zip(keys, row, strict=False) if value}
            assert len(rewarded) <= 1
            assert all(row[i] == 1 for i, key in enumerate(keys) if key in rewarded)


def test_a_reward_that_defines_nothing_says_so():
    from ttrl_repro.rewards import Reward

    with pytest.raises(NotImplementedError, match="'empty' defines neither targets nor rewards"):
        Reward(name="empty").rewards(rollouts())


# -- metrics -----------------------------------------------------------------------------------------

TRAINED = np.array([[0, 1, 2, 5], [0, 1, 2, 3]])


def based_on_labels(given, gold, rewards, trained, **options):
    advantages = GRPO().advantages(np.take_along_axis(rewards, trained, axis=1))
    return metrics.label_based(given, gold, rewards, trained, advantages, **options)


def test_metrics_by_hand():
    given = rollouts()
    rewards = reward("majority").rewards(given)
    free = metrics.label_free(given, rewards)
    assert free["majority_ratio"] == (3 / 8 + 5 / 8) / 2
    assert free["majority_voting_reward"] == 8 / 16
    assert free["abstention_rate"] == 1 / 16
    assert free["tie_rate"] == 0
    based = based_on_labels(given, GOLD, rewards, TRAINED)
    assert based["label_accuracy"] == 0.5
    # Wrong label: the 5 samples that got 0 are wrong indeed. Right label: all 8.
    assert based["reward_accuracy"] == 13 / 16
    assert based["ground_truth_ratio"] == 5 / 16
    assert based["pass@8"] == 0.5
    # Question 1 pushes (rewards 0 0 1 0) where the truth gives no push: all of its mass is wrong.
    # Question 2 (rewards 1 1 1 0) pushes as the truth would. Both have mass 3 at std 1/2.
    assert based["advantage_accuracy"] == pytest.approx(0.5)


def test_metrics_by_label_by_hand():
    given = rollouts()
    majority = reward("majority")
    found = metrics.by_label(given, GOLD, majority.rewards(given), majority.targets(given), np.array([True, True]))
    assert found == {
        "target_accuracy": 0.5,
        "kept_target_accuracy": 0.5,
        "wrong_label_reward_accuracy": 5 / 8,  # the paper's figure 10: a reward hit rate of 62.5 % by luck
        "right_label_reward_accuracy": 1.0,
        "wrong_label_majority_ratio": 3 / 8,
        # Votes 3 2 1 1 1 of 8.
        "wrong_label_vote_entropy": pytest.approx(3 / 8 * log(8 / 3) + 2 / 8 * log(8 / 2) + 3 * 1 / 8 * log(8)),
        "confidently_wrong": 0.0,
    }


def test_metrics_by_label_are_absent_where_there_is_no_such_question():
    given = rollouts(ANSWERS[1:])
    majority = reward("majority")
    found = metrics.by_label(given, GOLD[1:], majority.rewards(given), majority.targets(given), np.array([False]))
    assert found["target_accuracy"] == 1.0
    assert found["kept_target_accuracy"] is None  # nothing is trained on
    absent = {name for name, value in found.items() if value is None}
    assert absent == {
        "kept_target_accuracy", "wrong_label_reward_accuracy", "wrong_label_majority_ratio", "wrong_label_vote_entropy",
    }  # fmt: skip


def test_the_labels_in_question_are_those_that_the_reward_teaches():
    given = rollouts(frozen=["3", "9"])  # right, though nobody samples it any more; wrong, against a right vote
    frozen = reward("frozen")
    rewards = frozen.rewards(given)
    found = metrics.by_label(given, GOLD, rewards, frozen.targets(given), np.array([True, False]))
    assert found["target_accuracy"] == 0.5
    assert found["kept_target_accuracy"] == 1.0
    assert found["right_label_reward_accuracy"] == 1.0  # nobody is rewarded, nobody is right
    # Label 9: two rewarded who are wrong, five right without reward; the abstention is wrong, without reward.
    assert found["wrong_label_reward_accuracy"] == 1 / 8
    assert found["wrong_label_majority_ratio"] == 5 / 8
    assert based_on_labels(given, GOLD, rewards, TRAINED)["label_accuracy"] == 0.5  # the vote's, as ever


def test_a_reward_without_labels_is_divided_by_the_vote_s():
    given = rollouts()
    form = reward("format")
    found = metrics.by_label(given, GOLD, form.rewards(given), form.targets(given), np.array([True, True]))
    assert found["target_accuracy"] is None
    assert found["kept_target_accuracy"] is None
    assert found["wrong_label_reward_accuracy"] == 0  # all rewarded, none right
    assert found["right_label_reward_accuracy"] == 6 / 8  # five right ones, and the abstention


def test_rewards_that_are_not_0_or_1_have_no_reward_accuracy():
    given = rollouts()
    soft = reward("soft")
    rewards = soft.rewards(given)
    based = based_on_labels(given, GOLD, rewards, TRAINED, binary=soft.binary)
    assert based["reward_accuracy"] is None
    assert based["label_accuracy"] == 0.5
    found = metrics.by_label(given, GOLD, rewards, None, np.array([True, True]), soft.binary)
    assert found["wrong_label_reward_accuracy"] is None
    assert found["right_label_reward_accuracy"] is None
    assert found["wrong_label_majority_ratio"] == 3 / 8


@pytest.mark.parametrize(("answers", "share"), [("77773456", 0.0), ("77777456", 1.0), ("33333777", 0.0)])
def test_confidently_wrong_is_more_than_half_of_the_samples_on_one_wrong_answer(answers, share):
    given = rollouts([list(answers)])
    found = metrics.by_label(given, ["3"], np.zeros((1, 8)), None, np.array([True]))
    assert found["confidently_wrong"] == share


def test_whether_a_label_is_right():
    cases = [  # samples, label, gold
        (["0.3333", "2"], "1/3", "0.3333", True),  # both mean one class of the samples
        (["5", "6"], "7", "7.0", True),  # nobody samples either, and they mean the same
        (["5", "6"], "7", "9", False),  # nobody samples either, and they differ
        (["5", "6"], "6", "5", False),
        (["5", "6"], "7", "5", False),
        (["5"], None, "5", False),  # no label
        ([None], "4", "4", True),
    ]
    answers, labels, gold, expected = map(list, zip(*cases, strict=True))
    found = metrics.right_labels(rollouts(answers), labels, [str(canonical(answer)) for answer in gold])
    assert found.tolist() == expected


def test_under_a_wrong_label_reward_accuracy_is_arithmetic():
    # 1 - majority ratio - ground-truth ratio, however good or bad the model is (design of the metric).
    answers = [["7", "7", "7", "3", "5", "6", "8", "9"]]
    given = rollouts(answers)
    rewards = reward("majority").rewards(given)
    based = based_on_labels(given, ["3"], rewards, np.array([[0, 1, 2, 3]]))
    assert based["reward_accuracy"] == 1 - 3 / 8 - 1 / 8
    assert based["advantage_accuracy"] == 0  # every positive advantage goes to a wrong answer


def test_advantage_accuracy_is_absent_without_a_push():
    assert metrics.advantage_accuracy(np.zeros((2, 4)), np.ones((2, 4))) is None
