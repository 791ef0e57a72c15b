from collections import Counter
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats

from ttrl_repro.stats import (
    MOST_SAMPLES,
    abstention_rate,
    answers_interval,
    avg_at_k,
    encode_answers,
    maj_at_k,
    maj_at_k_Q,
    majority_ratio,
    pass_at_k,
    pass_at_k_Q,
    questions_interval,
    questions_mean_interval,
    replicates_interval,
    votes_at_k,
)

CODES = arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 7)), elements=st.integers(-1, 3))


def test_encode_answers():
    codes = encode_answers([["5", None, "7", "5"], ["1", "2", "3", "1"]], ["5", "3"])
    assert codes.tolist() == [[0, -1, 1, 0], [1, 2, 0, 1]]


def test_small_exact_values():
    codes = np.array(
        [
            [0, 0, 1, -1],  # right: 2 of 3 votes
            [0, 1, -1, -1],  # a tie of two: half
            [1, 1, 0, 2],  # wrong
            [-1, -1, -1, -1],  # nobody votes: 0
        ]
    )
    assert avg_at_k(codes) == 4 / 16
    assert maj_at_k(codes) == (1 + 0.5 + 0 + 0) / 4
    assert majority_ratio(codes) == (2 + 1 + 2 + 0) / 16
    assert pass_at_k(codes, 4) == 3 / 4
    assert pass_at_k(codes, 1) == avg_at_k(codes)


@given(CODES, st.data())
def test_pass_at_k_is_the_mean_over_all_subsets(codes, data):
    n = codes.shape[1]
    k = data.draw(st.integers(1, n))
    brute = np.mean([[any(row[list(chosen)] == 0) for chosen in combinations(range(n), k)] for row in codes])
    assert pass_at_k(codes, k) == pytest.approx(brute)


def test_pass_at_k_on_many_samples_does_not_overflow():
    codes = np.array([[0] * 3 + [1] * 997])
    assert pass_at_k(codes, 500) == pytest.approx(1 - comb(997, 500) / comb(1000, 500))
    with pytest.raises(ValueError, match="1 <= k <= 1000"):
        pass_at_k(codes, 1001)


def outcome(codes):
    """One vote, in plain Python: right (a tie in the gold answer's share), tied, share with the top answer."""
    counts = Counter(code for code in codes if code >= 0)
    top = max(counts.values(), default=0)
    tied = [code for code, count in counts.items() if count == top]
    return (1 / len(tied) if 0 in tied else 0.0), float(len(tied) > 1), top / len(codes)


@given(CODES, st.data())
def test_the_vote_over_k_is_the_mean_over_all_subsets(codes, data):
    n = codes.shape[1]
    k = data.draw(st.integers(1, n))
    brute = [np.mean([outcome(row[list(chosen)]) for chosen in combinations(range(n), k)], axis=0) for row in codes]
    found = votes_at_k(codes, [k])
    for values_QK, expected_Q in zip(
        (found.correct_QK, found.tied_QK, found.majority_QK), np.array(brute).T, strict=True
    ):
        assert values_QK[:, 0] == pytest.approx(expected_Q)
    assert maj_at_k_Q(codes, k) == pytest.approx(np.array(brute)[:, 0])
    assert maj_at_k(codes, k) == pytest.approx(np.array(brute)[:, 0].mean())


@given(CODES)
def test_the_vote_over_all_samples_and_over_one(codes):
    q, n = codes.shape
    found = votes_at_k(codes, [1, n])
    assert found.correct_QK[:, 1] == pytest.approx(maj_at_k_Q(codes))  # two ways to compute it
    assert found.majority_QK[:, 1].mean() == pytest.approx(majority_ratio(codes))
    assert found.correct_QK[:, 0].mean() == pytest.approx(avg_at_k(codes))
    assert found.tied_QK[:, 0].tolist() == [0] * q  # one vote ties with nothing


@given(CODES, st.permutations(range(4)), st.data())
def test_ties_and_majority_do_not_depend_on_which_answer_is_gold(codes, names, data):
    k = data.draw(st.integers(1, codes.shape[1]))
    renamed = np.append(names, -1)[codes]  # -1 picks the last: abstentions stay
    assert votes_at_k(renamed, [k]).tied_QK == pytest.approx(votes_at_k(codes, [k]).tied_QK)
    assert votes_at_k(renamed, [k]).majority_QK == pytest.approx(votes_at_k(codes, [k]).majority_QK)


def test_the_vote_over_k_of_many_samples_agrees_with_monte_carlo():
    rng = np.random.default_rng(0)
    codes = np.repeat([[0, 1, 2, 3, -1]], [70, 75, 5, 50, 100], axis=1)
    drawn = [outcome(rng.permuted(codes[0])[:40].tolist()) for _ in range(4000)]
    found = votes_at_k(codes, [40])
    mean, error = np.mean(drawn, axis=0), np.std(drawn, axis=0) / np.sqrt(4000)
    exact = np.array([found.correct_QK[0, 0], found.tied_QK[0, 0], found.majority_QK[0, 0]])
    assert (abs(exact - mean) < 4 * error).all()


def test_the_vote_over_k_keeps_its_precision_at_the_most_samples():
    half = MOST_SAMPLES // 2
    codes = np.array([[0] * half + [1] * half])
    assert votes_at_k(codes, [half]).correct_QK[0, 0] == pytest.approx(0.5, rel=1e-12)  # by symmetry
    tied = comb(half, half // 2) ** 2 / comb(2 * half, half)
    assert votes_at_k(codes, [half]).tied_QK[0, 0] == pytest.approx(tied, rel=1e-12)
    with pytest.raises(ValueError, match="at most 1000"):
        votes_at_k(np.zeros((1, MOST_SAMPLES + 1), dtype=int), [1])


@pytest.mark.parametrize("k", [0, 4])
def test_a_vote_over_k_needs_k_samples(k):
    with pytest.raises(ValueError, match="1 <= k <= 3"):
        maj_at_k(np.array([[0, 1, -1]]), k)


def test_more_votes_lower_the_accuracy_where_a_wrong_answer_leads():
    codes = np.array([[0] * 4 + [1] * 6])
    falling = votes_at_k(codes, [1, 3, 5, 7, 9]).correct_QK[0]
    assert falling[0] == pytest.approx(0.4)
    assert (np.diff(falling) < 0).all()
    # 3 of 10: two or three of the 4 right ones.
    assert falling[1] == pytest.approx((comb(4, 2) * 6 + comb(4, 3)) / comb(10, 3))


def test_numbers_per_question():
    codes = np.array([[0, 1, 1, -1], [0, 0, 0, 0]])
    assert pass_at_k_Q(codes, 2).tolist() == [0.5, 1.0]  # 3 of the 6 pairs hold the right sample
    assert abstention_rate(codes) == 1 / 8


@given(CODES)
def test_maj_at_k_does_not_depend_on_the_order_of_samples(codes):
    assert maj_at_k(codes) == maj_at_k(codes[:, ::-1])
    assert 0 <= maj_at_k(codes) <= 1


def test_the_interval_over_answers_agrees_with_its_known_standard_error():
    rng = np.random.default_rng(0)
    p = rng.random(40)
    codes = np.where(rng.random((40, 16)) < p[:, None], 0, 1)
    found = answers_interval(avg_at_k, codes)
    right = (codes == 0).mean(axis=1)
    error = np.sqrt((right * (1 - right) / 16).sum()) / 40  # questions fixed, samples drawn
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert found.low < found.value < found.high
    assert found == answers_interval(avg_at_k, codes)  # seeded


def test_the_interval_over_answers_covers():
    rng = np.random.default_rng(1)
    p = rng.uniform(0.2, 0.8, size=10)
    covered = 0
    for i in range(100):
        codes = np.where(rng.random((10, 32)) < p[:, None], 0, 1)
        found = answers_interval(avg_at_k, codes, seed=i)
        covered += found.low <= p.mean() <= found.high
    assert covered >= 88  # 95 expected; 88 is 3 standard deviations below


def test_the_interval_over_replicates_is_student_s():
    found = replicates_interval(np.array([0.4, 0.5]))
    assert (found.value, found.high) == pytest.approx((0.45, 0.45 + 12.7062 * 0.05), abs=1e-4)
    assert found.population == "replicates"
    assert replicates_interval(np.array([0.4])).population is None


def test_the_interval_over_questions_is_wilson_s():
    correct = np.array([1] * 7 + [0] * 23)
    found = questions_interval(correct)
    z = scipy_stats.norm.ppf(0.975)
    n, p = 30, 7 / 30
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))
    assert found.population == "questions"


def test_the_bootstrap_over_questions_agrees_with_the_known_standard_error():
    values = np.random.default_rng(0).beta(2, 1, size=200)
    found = questions_mean_interval(values)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(200), rel=0.1)
    assert (found.value, found.population) == (values.mean(), "questions")
    assert found == questions_mean_interval(values)  # seeded
    assert found != questions_mean_interval(values, seed=1)
    assert questions_mean_interval(values[:1]).population is None
