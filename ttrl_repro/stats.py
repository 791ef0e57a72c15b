"""Estimators and intervals of the study (NumPy and SciPy only).

Answers of Q questions, N samples each, come as `codes_QN` (integers): 0 is the gold answer, -1 an
abstention, every other number another answer. `encode_answers` makes them from keys.

Every interval names its population:

- ANSWERS: the same questions, the same weights, other samples;
- QUESTIONS: other questions of the same kind, the same weights. Only where the weights have not seen
  the questions: training on a set couples its questions to one another;
- REPLICATES: other question draws and seeds of the same cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np
from scipy import stats as scipy_stats

from ttrl_repro.seeds import generator

ANSWERS = "answers"
QUESTIONS = "questions"
REPLICATES = "replicates"
LEVEL = 0.95  # coverage of every interval that does not say another
RESAMPLES = 1000
MOST_SAMPLES = 1000  # of `votes_at_k`: C(1000, 500) is the last round size that a double holds


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; `population` says what the interval ranges over (None: no interval)."""

    value: float
    low: float
    high: float
    population: str | None


def replicates_interval(values: np.ndarray, level: float = LEVEL) -> Estimate:
    """Mean of independent replicates with its t interval; population REPLICATES (None for a single one)."""
    n, mean = len(values), float(values.mean())
    if n < 2:
        return bare(mean)
    half = float(scipy_stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, REPLICATES)


def bare(value: float) -> Estimate:
    """A number without an interval."""
    return Estimate(value, value, value, None)


def encode_answers(keys_QN: Sequence[Sequence[str | None]], gold_Q: Sequence[str]) -> np.ndarray:
    """Codes (Q, N) int64 of keys against each question's gold key."""
    rows = []
    for keys, gold in zip(keys_QN, gold_Q, strict=True):
        codes = {gold: 0}
        rows.append([-1 if key is None else codes.setdefault(key, len(codes)) for key in keys])
    return np.array(rows, dtype=np.int64)


def avg_at_k(codes_QN: np.ndarray) -> float:
    """Share of samples that are right, averaged over questions (`avg@k` with k = N)."""
    return float((codes_QN == 0).mean())


def maj_at_k(codes_QN: np.ndarray, k: int | None = None) -> float:
    """Accuracy of the majority vote over k of the N samples (None: all), averaged over questions.

    The expectation over draws without replacement, as `maj_at_k_Q`.
    """
    return float(maj_at_k_Q(codes_QN, k).mean())


def maj_at_k_Q(codes_QN: np.ndarray, k: int | None = None) -> np.ndarray:
    """Probability (Q,) that the majority vote over k of the N samples (None: all) is right.

    Abstentions do not vote; a tie counts in the gold answer's share of it (the expectation of a fair
    draw); a draw in which all abstain counts 0. Raises ValueError as `votes_at_k`.
    """
    if k is not None:
        return votes_at_k(codes_QN, [k]).correct_QK[:, 0]
    counts_QC = _counts(codes_QN)
    top_Q = counts_QC.max(axis=1)
    tied_Q = (counts_QC == top_Q[:, None]).sum(axis=1)
    return np.where((counts_QC[:, 0] == top_Q) & (top_Q > 0), 1 / tied_Q, 0.0)


@dataclass(frozen=True)
class VotesAtK:
    """The vote over k of a question's N samples, in expectation over draws without replacement.

    A column per k. correct_QK: probability that the label is right (as `maj_at_k_Q`). tied_QK: that the top
    count is shared. majority_QK: share of the k samples, abstentions included, that have the top count's answer.
    The last two do not look at which answer is gold.
    """

    correct_QK: np.ndarray
    tied_QK: np.ndarray
    majority_QK: np.ndarray


def votes_at_k(codes_QN: np.ndarray, ks: Sequence[int]) -> VotesAtK:
    """Exact `VotesAtK` for every k of `ks` at once; no Monte Carlo.

    Raises ValueError unless 1 <= k <= N <= MOST_SAMPLES.
    """
    q, n = codes_QN.shape
    if n > MOST_SAMPLES:
        raise ValueError(f"at most {MOST_SAMPLES} samples a question, not {n}")
    if not all(1 <= k <= n for k in ks):
        raise ValueError(f"a vote over k of {n} samples needs 1 <= k <= {n}, not {list(ks)}")
    columns = list(ks)
    found_QSK = np.empty((q, 3, len(columns)))
    for i, (gold, *rivals) in enumerate(_counts(codes_QN).tolist()):
        cast = sorted(count for count in rivals if count)
        found_QSK[i] = _votes_by_size(gold, tuple(cast), n - gold - sum(cast))[:, columns]
    return VotesAtK(found_QSK[:, 0], found_QSK[:, 1], found_QSK[:, 2])


@lru_cache(maxsize=4096)
def _votes_by_size(gold: int, rivals: tuple[int, ...], blanks: int) -> np.ndarray:
    """The three numbers of `VotesAtK` for one question's counts: (3, n + 1), column k for a vote over k.

    For a top count g, a rival with m votes in all contributes sum_{j<g} C(m, j) x^j + t C(m, g) x^g: x marks
    samples drawn, t classes at the top. The coefficients of the product over rivals count the draws with
    every t; a fair draw among t rivals and the gold answer takes gold with 1 / (1 + t). All terms are
    positive, so doubles lose nothing to cancellation.
    """
    n = gold + sum(rivals) + blanks
    correct_K, tied_K, top_K = np.zeros((3, n + 1))
    for g in range(1, max(gold, *rivals, 0) + 1):
        # Blanks never vote, and a rival with fewer than g votes in all never reaches g.
        free = blanks + sum(count for count in rivals if count < g)
        ways_TK = np.zeros((1, n + 1))
        ways_TK[0, : free + 1] = _binomials(free)
        for count in rivals:
            if count >= g:
                ways_TK = _with_class(ways_TK, count, g)
        if gold >= g:
            share_T = 1 / (1 + np.arange(len(ways_TK)))
            correct_K[g:] += comb(gold, g) * (share_T @ ways_TK)[: n + 1 - g]
        all_TK = _with_class(ways_TK, gold, g)
        tied_K += all_TK[2:].sum(axis=0)
        top_K += g * all_TK[1:].sum(axis=0)
    draws_K = _binomials(n)
    return np.array([correct_K, tied_K, top_K / np.maximum(np.arange(n + 1), 1)]) / draws_K


def _with_class(ways_TK: np.ndarray, count: int, g: int) -> np.ndarray:
    """`ways_TK` times the factor of a class with `count` votes at top count g; one more row if it can reach g."""
    binomials = _binomials(count)
    # Rows cannot run into one another: a product's degree is at most the samples of its classes.
    below_TK = np.convolve(ways_TK.ravel(), binomials[:g])[: ways_TK.size].reshape(ways_TK.shape)
    if count < g:
        return below_TK
    width = ways_TK.shape[1]
    grown_TK = np.zeros((len(ways_TK) + 1, width))
    grown_TK[:-1] = below_TK
    grown_TK[1:, g:] += binomials[g] * ways_TK[:, : width - g]
    return grown_TK


@lru_cache(maxsize=4096)
def _binomials(n: int) -> np.ndarray:
    """C(n, 0..n) as doubles, each correctly rounded."""
    return np.array([comb(n, j) for j in range(n + 1)], dtype=float)


def pass_at_k(codes_QN: np.ndarray, k: int) -> float:
    """Unbiased pass@k, averaged over questions (Chen et al. 2021): 1 - C(n - c, k) / C(n, k).

    Raises ValueError unless 1 <= k <= N.
    """
    return float(pass_at_k_Q(codes_QN, k).mean())


def pass_at_k_Q(codes_QN: np.ndarray, k: int) -> np.ndarray:
    """`pass_at_k` of every question, (Q,)."""
    n = codes_QN.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs 1 <= k <= {n} samples")
    right_Q = (codes_QN == 0).sum(axis=1)
    # C(n - c, k) / C(n, k) as a product of factors in [0, 1]: no overflow, and 0 when k > n - c.
    factors_Qk = np.clip((n - right_Q[:, None] - np.arange(k)) / (n - np.arange(k)), 0, 1)
    return 1 - factors_Qk.prod(axis=1)


def abstention_rate(codes_QN: np.ndarray) -> float:
    """Share of samples without an answer, averaged over questions."""
    return float((codes_QN < 0).mean())


def majority_ratio(codes_QN: np.ndarray) -> float:
    """Share of samples (abstentions included) that agree with the majority, averaged over questions."""
    return float(majority_ratio_Q(codes_QN).mean())


def majority_ratio_Q(codes_QN: np.ndarray) -> np.ndarray:
    """`majority_ratio` of every question, (Q,)."""
    return _counts(codes_QN).max(axis=1) / codes_QN.shape[1]


def answers_interval(statistic: Callable[[np.ndarray], float], codes_QN: np.ndarray, seed: int = 0) -> Estimate:
    """Percentile bootstrap over each question's samples; population ANSWERS."""
    rng = generator(seed, "answers_interval")
    q, n = codes_QN.shape
    draws = [statistic(np.take_along_axis(codes_QN, rng.integers(n, size=(q, n)), axis=1)) for _ in range(RESAMPLES)]
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(statistic(codes_QN), float(low), float(high), ANSWERS)


def questions_interval(correct_Q: np.ndarray) -> Estimate:
    """Wilson interval for a share of questions (one verdict each, 0 or 1); population QUESTIONS."""
    right, n = int(correct_Q.sum()), len(correct_Q)
    interval = scipy_stats.binomtest(right, n).proportion_ci(LEVEL, method="wilson")
    return Estimate(right / n, float(interval.low), float(interval.high), QUESTIONS)


def questions_mean_interval(values_Q: np.ndarray, seed: int = 0) -> Estimate:
    """Mean of one number a question, of any kind, with a percentile bootstrap over questions; population QUESTIONS.

    For verdicts of 0 or 1 `questions_interval` is better: here equal values give an interval without width,
    and on few questions (30) it covers a little less than LEVEL. None for a single question.
    """
    n, mean = len(values_Q), float(values_Q.mean())
    if n < 2:
        return bare(mean)
    picks = generator(seed, "questions_mean_interval").integers(n, size=(RESAMPLES, n))
    low, high = np.quantile(values_Q[picks].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(mean, float(low), float(high), QUESTIONS)


def _counts(codes_QN: np.ndarray) -> np.ndarray:
    """Votes of every code, (Q, C); abstentions are left out. Column 0 is the gold answer."""
    q, _ = codes_QN.shape
    width = max(int(codes_QN.max()) + 1, 1)
    cast = codes_QN >= 0
    flat = (np.arange(q)[:, None] * width + codes_QN)[cast]
    return np.bincount(flat, minlength=q * width).reshape(q, width)
