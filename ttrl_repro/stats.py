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

import numpy as np
from scipy import stats as scipy_stats

from ttrl_repro.seeds import generator

ANSWERS = "answers"
QUESTIONS = "questions"
REPLICATES = "replicates"
LEVEL = 0.95  # coverage of every interval
RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; `population` says what the interval ranges over (None: no interval)."""

    value: float
    low: float
    high: float
    population: str | None


def replicates_interval(values: np.ndarray) -> Estimate:
    """Mean of independent replicates with its t interval; population REPLICATES (None for a single one)."""
    n, mean = len(values), float(values.mean())
    if n < 2:
        return bare(mean)
    half = float(scipy_stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
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


def maj_at_k(codes_QN: np.ndarray) -> float:
    """Accuracy of the majority vote over all N samples, averaged over questions.

    Abstentions do not vote; a tie counts in the gold answer's share of it (the expectation of a fair
    draw); a question on which all abstain counts 0.
    """
    counts_QC = _counts(codes_QN)
    top_Q = counts_QC.max(axis=1)
    tied_Q = (counts_QC == top_Q[:, None]).sum(axis=1)
    return float(np.where((counts_QC[:, 0] == top_Q) & (top_Q > 0), 1 / tied_Q, 0.0).mean())


def pass_at_k(codes_QN: np.ndarray, k: int) -> float:
    """Unbiased pass@k, averaged over questions (Chen et al. 2021): 1 - C(n - c, k) / C(n, k).

    Raises ValueError unless 1 <= k <= N.
    """
    n = codes_QN.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs 1 <= k <= {n} samples")
    right_Q = (codes_QN == 0).sum(axis=1)
    # C(n - c, k) / C(n, k) as a product of factors in [0, 1]: no overflow, and 0 when k > n - c.
    factors_Qk = np.clip((n - right_Q[:, None] - np.arange(k)) / (n - np.arange(k)), 0, 1)
    return float((1 - factors_Qk.prod(axis=1)).mean())


def majority_ratio(codes_QN: np.ndarray) -> float:
    """Share of samples (abstentions included) that agree with the majority, averaged over questions."""
    return float(_counts(codes_QN).max(axis=1).mean() / codes_QN.shape[1])


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


def _counts(codes_QN: np.ndarray) -> np.ndarray:
    """Votes of every code, (Q, C); abstentions are left out. Column 0 is the gold answer."""
    q, _ = codes_QN.shape
    width = max(int(codes_QN.max()) + 1, 1)
    cast = codes_QN >= 0
    flat = (np.arange(q)[:, None] * width + codes_QN)[cast]
    return np.bincount(flat, minlength=q * width).reshape(q, width)
