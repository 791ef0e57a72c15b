import random
from collections import Counter
from dataclasses import replace
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrl_repro.answers import canonical
from ttrl_repro.rewards import agreement
from ttrl_repro.votes import vote

WRITTEN = ["1", "01", "1.0", "2", "3", "x", "1/3", "0.3333", r"\frac13", "10%", "0.1", None]
ANSWERS = st.lists(st.sampled_from(WRITTEN), min_size=1, max_size=30)


def rewards(outcome, answers):
    """What the majority reward makes of the vote."""
    return agreement([[canonical(answer) for answer in answers]], [outcome.key])[0].tolist()


def test_the_paper_s_lucky_hit():
    # TTRL, figure 10: samples 1 1 2 2 2 4 5 6, estimated label 2, rewards 0 0 1 1 1 0 0 0.
    outcome = vote(list("11222456"))
    assert outcome.label == "2"
    assert outcome.majority_ratio == 3 / 8
    assert outcome.margin == 1 / 8
    assert rewards(outcome, list("11222456")) == [0, 0, 1, 1, 1, 0, 0, 0]


def test_ways_to_write_one_answer_vote_together():
    outcome = vote(["025", "25", "25", "7", "7"])
    assert (outcome.key, outcome.counts) == ("25", {"25": 3, "7": 2})
    assert outcome.label == "25"  # as it was written most often


def test_abstentions_never_win_but_count_in_the_ratio():
    outcome = vote([None, None, None, "1"])
    assert (outcome.label, outcome.majority_ratio, outcome.abstained) == ("1", 0.25, 3)
    assert rewards(outcome, [None, "1"]) == [0.0, 1.0]


def test_no_answer_at_all_gives_no_label_and_no_reward():
    outcome = vote([None, " "])
    assert (outcome.label, outcome.key, outcome.tied) == (None, None, 0)
    assert (outcome.majority_ratio, outcome.margin, outcome.entropy) == (0, 0, 0)
    assert rewards(outcome, [None, None]) == [0.0, 0.0]


def test_a_tie_is_broken_fairly_by_the_seed_and_reported():
    picks = [vote(["1", "2", "3", "1", "2"], seed=seed).key for seed in range(400)]
    assert set(picks) == {"1", "2"}
    assert 160 < picks.count("1") < 240  # 4 standard deviations around 200
    assert vote(["1", "2", "3", "1", "2"]).tied == 2


def test_entropy_is_of_the_votes_cast():
    assert vote(["1", "1", "2", "2", None]).entropy == pytest.approx(log(2))
    assert vote(["1", "1"]).entropy == 0


def test_a_vote_needs_samples():
    with pytest.raises(ValueError, match="at least one"):
        vote([])


@given(ANSWERS, st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_matter(answers, seed, shuffler: random.Random):
    shuffled = list(answers)
    shuffler.shuffle(shuffled)
    one, other = vote(answers, seed=seed), vote(shuffled, seed=seed)
    assert replace(one, keys=()) == replace(other, keys=())
    assert Counter(one.keys) == Counter(other.keys)
    assert dict(zip(answers, one.keys, strict=True)) == dict(zip(shuffled, other.keys, strict=True))


@given(ANSWERS, st.integers(0, 5))
def test_the_label_has_the_top_count_and_earns_its_own_reward(answers, seed):
    outcome = vote(answers, seed=seed)
    if outcome.key is None:
        assert all(answer is None for answer in answers)
        return
    assert outcome.counts[outcome.key] == max(outcome.counts.values())
    assert canonical(outcome.label) == outcome.key
    assert rewards(outcome, [outcome.label]) == [1.0]
    assert agreement([outcome.keys], [outcome.key]).mean() == pytest.approx(outcome.majority_ratio)


def test_answers_that_say_less_vote_with_the_one_that_they_mean():
    outcome = vote(["0.3333", r"\frac{1}{3}", "1/3", "33.33%", "2", "2"])
    # 33.33% may be 0.3333, which may be 1/3.
    assert outcome.counts == {"1/3": 4, "2": 2}
    assert outcome.label == "1/3"  # a form that is the class's own key: never the rounded one
    assert canonical(outcome.label) == outcome.key
    assert outcome.keys == ("1/3", "1/3", "1/3", "1/3", "2", "2")


def test_where_it_is_unclear_which_is_meant_votes_are_not_merged():
    assert vote(["10%", "10", "0.1"]).counts == {"1/10": 1, "10": 1, "10%": 1}


def test_weights_decide_and_counts_still_count():
    outcome = vote(["1", "1", "2", None], weights=[0.1, 0.2, 0.5, 9.0])
    assert (outcome.label, outcome.counts) == ("2", {"2": 1, "1": 2})
    assert outcome.majority_ratio == 0.25  # a share of samples
    assert outcome.weights == pytest.approx({"2": 0.5, "1": 0.3})
    assert outcome.margin == pytest.approx((0.5 - 0.3) / 9.8)
    assert outcome.tied == 1


def test_equal_weights_are_no_weights():
    answers = ["1", "1", "2", None, "3", "2"]
    plain, weighted = vote(answers, seed=3), vote(answers, weights=[2.5] * 6, seed=3)
    assert (plain.key, plain.counts, plain.tied) == (weighted.key, weighted.counts, weighted.tied)
    assert plain.margin == weighted.margin
    assert plain.entropy == pytest.approx(weighted.entropy)


def test_weights_add_up_exactly_so_that_ties_do_not_depend_on_the_order():
    # 0.1 + 0.2 is not 0.3 if added up term by term.
    one = vote(["a", "a", "b"], weights=[0.1, 0.2, 0.30000000000000004])
    other = vote(["b", "a", "a"], weights=[0.30000000000000004, 0.2, 0.1])
    assert one.tied == other.tied == 2
    assert one.key == other.key


def test_a_class_of_weight_0_cannot_win():
    outcome = vote(["1", "1"], weights=[0.0, 0.0])
    assert (outcome.label, outcome.majority_ratio, outcome.margin, outcome.tied) == (None, 0.0, 0.0, 0)
    assert vote(["1", "1", "2"], weights=[0, 0, 1e-300]).label == "2"


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(ValueError, match="weight"):
        vote(["1", "2"], weights=weights)
