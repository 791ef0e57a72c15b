from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ttrl_repro.replicate_tests import DRAWS, MOST_EXACT, equivalence_p, holm, sign_flip_p
from ttrl_repro.stats import replicates_interval

# Multiples of 1/64 add up exactly in any order, so that ties are ties.
DIFFERENCES = st.lists(st.integers(-40, 40).map(lambda n: n / 64), min_size=1, max_size=9).map(np.array)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def brute_force(differences):
    sums = [abs(np.dot(signs, differences)) for signs in product((-1, 1), repeat=len(differences))]
    return np.mean([one >= abs(differences.sum()) for one in sums])


def test_small_exact_p_values():
    assert sign_flip_p(np.array([0.3])) == 1  # one replicate can say nothing
    assert sign_flip_p(np.full(5, 0.1)) == 2 / 32  # so 5 replicates never reach .05
    assert sign_flip_p(np.arange(1, 11) / 100) == 2 / 1024
    assert sign_flip_p(np.zeros(4)) == 1
    # Sums of (1, 2, 3, -4) under all signs: 2 is reached or passed by all but the patterns that sum to 0 (2 of 16).
    assert sign_flip_p(np.array([1.0, 2.0, 3.0, -4.0])) == 14 / 16
    # Fisher's (1935) table of Darwin's maize, in eighths of an inch: 1726 of 32768 patterns are as far out.
    maize = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert sign_flip_p(np.array(maize, dtype=float)) == 1726 / 32768


def test_rounding_makes_no_difference_between_equal_sums():
    # In doubles .1 + .2 - .3 is 5.6e-17, not 0: without a tolerance the observed sum would lose its ties.
    tenths = np.array([0.1, 0.2, 0.3, -0.4, 0.5, -0.6, 0.7])
    assert sign_flip_p(tenths) == brute_force(np.rint(tenths * 10))


@given(DIFFERENCES)
def test_sign_flip_p_is_the_share_of_all_patterns(differences):
    p = sign_flip_p(differences)
    assert p == brute_force(differences)
    assert 2 / 2 ** len(differences) <= p <= 1


@given(DIFFERENCES, st.randoms(use_true_random=False))
def test_sign_flip_p_ignores_the_sign_and_the_order(differences, random):
    shuffled = differences.tolist()
    random.shuffle(shuffled)
    assert sign_flip_p(-differences) == sign_flip_p(np.array(shuffled)) == sign_flip_p(differences)


@pytest.mark.parametrize("n", [6, 10])
def test_sign_flip_p_agrees_with_scipy(n):
    differences = np.random.default_rng(n).normal(0.4, 1, size=n)
    theirs = scipy_stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert sign_flip_p(differences) == pytest.approx(theirs.pvalue)


def test_many_replicates_are_sampled():
    few = np.random.default_rng(1).normal(0.45, 1, size=MOST_EXACT)
    # A difference of 0 changes no sum, so the exact p of 20 is that of 21, which are sampled.
    exact, sampled = sign_flip_p(few), sign_flip_p(np.append(few, 0.0))
    error = np.sqrt(exact * (1 - exact) / DRAWS)
    assert sampled == pytest.approx(exact, abs=4 * error)
    assert sampled != exact
    assert sampled == sign_flip_p(np.append(few, 0.0))  # seeded
    assert sampled != sign_flip_p(np.append(few, 0.0), seed=1)
    assert sign_flip_p(np.full(40, 0.1)) == 1 / (1 + DRAWS)  # never 0


@pytest.mark.parametrize("bad", [[], [0.1, float("nan")], [float("inf")]])
def test_what_is_no_difference_is_refused(bad):
    with pytest.raises(ValueError, match="finite difference"):
        sign_flip_p(np.array(bad))


def test_holm_on_a_published_example():
    # Wikipedia's example ("Holm-Bonferroni method"): at .05 hypotheses 1 and 4 are rejected, 2 and 3 are not.
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        holm([0.1, float("nan")])


@given(P_VALUES)
def test_holm_is_the_step_down_procedure(p_values):
    adjusted = holm(p_values)
    assert (adjusted >= p_values).all()
    assert (adjusted <= 1).all()
    in_order = adjusted[np.argsort(p_values, kind="stable")]
    assert (np.diff(in_order) >= 0).all()
    # The procedure itself: go through p in order, stop at the first above alpha / (what is left).
    alpha, rejected = 0.05, set()
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] * (len(p_values) - rank) > alpha:
            break
        rejected.add(int(index))
    assert {int(index) for index in np.flatnonzero(adjusted <= alpha)} == rejected


@given(P_VALUES, st.randoms(use_true_random=False))
def test_holm_ignores_the_order(p_values, random):
    places = list(range(len(p_values)))
    random.shuffle(places)
    assert holm([p_values[i] for i in places]).tolist() == holm(p_values)[places].tolist()


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12).map(np.array), st.floats(0.01, 1))
def test_equivalence_is_the_90_percent_interval_inside_the_margin(differences, margin):
    found = replicates_interval(differences, 0.90)
    edge = min(abs(found.low + margin), abs(found.high - margin))
    if edge > 1e-9:  # on the edge rounding decides
        inside = -margin < found.low and found.high < margin
        assert (equivalence_p(differences, margin) < 0.05) == inside
        assert equivalence_p(-differences, margin) == equivalence_p(differences, margin)


def test_equivalence_p_is_the_larger_of_two_one_sided_tests():
    differences = np.array([0.01, -0.02, 0.015, 0.0, 0.005])
    below = scipy_stats.ttest_1samp(differences, -0.02, alternative="greater").pvalue
    above = scipy_stats.ttest_1samp(differences, 0.02, alternative="less").pvalue
    assert equivalence_p(differences, 0.02) == pytest.approx(max(below, above))
    assert equivalence_p(np.full(4, 0.25), 0.5) == 0  # no spread at all
    assert equivalence_p(np.full(4, 0.5), 0.5) == 1  # on the margin is not inside it
    with pytest.raises(ValueError, match="2 replicates"):
        equivalence_p(np.array([0.1]), 0.02)
    with pytest.raises(ValueError, match="margin must be positive"):
        equivalence_p(differences, 0.0)
