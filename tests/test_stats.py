from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats

from ttrl_repro.stats import (
    answers_interval,
    avg_at_k,
    encode_answers,
    maj_at_k,
    majority_ratio,
    pass_at_k,
    questions_interval,
    replicates_interval,
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
