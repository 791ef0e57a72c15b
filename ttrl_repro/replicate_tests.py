"""Tests over replicates (NumPy and SciPy only), for the claims that were written down before the runs.

`differences_R`: one paired difference a replicate. Replicates must be independent of one another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats as scipy_stats

from ttrl_repro.seeds import generator

MOST_EXACT = 20  # replicates up to which all 2^n sign patterns are looked at
DRAWS = 99_999  # random sign patterns above that
ALPHA = 0.05  # family-wise
TIE = 1e-12  # sums closer than this share of the sum of |d| are equal: rounding stays below 20 x 2e-16


def sign_flip_p(differences_R: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of the paired sign-flip test (Fisher 1935): the share of sign patterns with |sum| as large.

    Its null: every difference is distributed symmetrically about 0, as when the two arms of a replicate could be
    exchanged; replicates may differ in scale. Exact up to MOST_EXACT replicates, where the smallest p is 2 / 2^n;
    above, (1 + count) / (1 + DRAWS) over random patterns, which is valid too (Phipson and Smyth 2010).
    Raises ValueError if there is no difference, or one is not finite.
    """
    differences = _checked(differences_R)
    n = len(differences)
    bound = abs(differences.sum()) - TIE * np.abs(differences).sum()
    if n <= MOST_EXACT:
        sums = differences[:1]  # a pattern and its mirror image have one |sum|: the first sign may stay
        for difference in differences[1:]:
            sums = np.concatenate([sums + difference, sums - difference])
        return float((np.abs(sums) >= bound).mean())
    rng = generator(seed, "sign_flip_p")
    count = 0
    for rows in np.array_split(np.arange(DRAWS), 20):  # 5,000 patterns at once bound the memory
        signs = rng.integers(2, size=(len(rows), n), dtype=np.int8) * 2.0 - 1.0
        count += int((np.abs(signs @ differences) >= bound).sum())
    return (1 + count) / (1 + DRAWS)


def holm(p_K: Sequence[float]) -> np.ndarray:
    """Holm's (1979) step-down adjusted p-values, (K,): below alpha where the procedure rejects at family-wise alpha.

    The running maximum of (K - rank) p over p in ascending order, at most 1. Any dependence among the tests is allowed.
    Raises ValueError unless every p lies in [0, 1].
    """
    p = np.asarray(p_K, dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values lie in [0, 1], not {p.tolist()}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def equivalence_p(differences_R: np.ndarray, margin: float) -> float:
    """p of two one-sided t tests (TOST, Schuirmann 1987) of the null "the mean difference is at least `margin` away".

    The larger of the two: below .05 if and only if the 90 % t interval of the mean lies inside (-margin, margin).
    Raises ValueError for fewer than 2 differences, one that is not finite, or a margin that is not positive.
    """
    differences = _checked(differences_R)
    n = len(differences)
    if n < 2:
        raise ValueError("an equivalence test needs 2 replicates or more")
    if not margin > 0:
        raise ValueError(f"margin must be positive, not {margin}")
    room = margin - abs(float(differences.mean()))  # to the nearer margin, which has the larger p
    error = float(differences.std(ddof=1)) / np.sqrt(n)
    if error == 0:
        return 0.0 if room > 0 else 1.0
    return float(scipy_stats.t.sf(room / error, n - 1))


def _checked(differences_R: np.ndarray) -> np.ndarray:
    differences = np.asarray(differences_R, dtype=float)
    if differences.ndim != 1 or len(differences) == 0 or not np.isfinite(differences).all():
        raise ValueError(f"expected at least one finite difference, found {differences.tolist()}")
    return differences
