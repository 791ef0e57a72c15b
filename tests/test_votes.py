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

ANSWERS = st.lists(st.sampled_from(["1", "01", "1.0", "2", "3", "x", None]), min_size=1, max_size=30)


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
    assert sum(rewards(outcome, answers)) / len(answers) == pytest.approx(outcome.majority_ratio)
