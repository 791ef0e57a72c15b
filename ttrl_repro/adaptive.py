"""Adaptive voting: sample a question in chunks and stop once its majority is decided (NumPy and SciPy only)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite

import numpy as np
from scipy.special import gammaln


@dataclass(frozen=True)
class SequentialRule:
    """When a vote of up to `votes` samples may stop early, looking after every `chunk` of them.

    `error` bounds the probability that the leader on which it stops is no winner of the full vote: that
    after all `votes` samples another answer has strictly more. It holds for every question and model, as long
    as the samples are exchangeable (independent samples are). With 0 it is curtailment: it stops when no other
    answer can end above the leader, and is never wrong. A leader that the full vote ties is no error: which of the
    tied answers leads early is a fair draw, as the order of the samples is. Raises ValueError for settings that
    make no sense.

    Proof. Fix the full vote's counts; the order of its N samples is then uniform. Let w be a winner. Stopping
    wrongly at a look of n samples needs a class L with c_L = c < c_w that leads with a votes there, w having b, and
    (a, b) in the look's accepted set. That set is closed downwards in b, so recolouring samples of neither class
    as w can only make the event rarer: its probability is at most e(c), that for c_w = c + 1, a sum of multivariate
    hypergeometric probabilities. Classes other than w have N - c_w <= N - c - 1 samples together, so
        sum_L e(c_L) = sum_L c_L e(c_L) / c_L <= max_c (N - c - 1) e(c) / c.
    Accepted sets are made as large as that bound, added up over looks, stays within `error`: look j of J (not
    counting the last, which is the full vote) may take what the first j / J of it leave. Their shape is by
    P(Hypergeometric(M = a + b + N - n, (M - 1) // 2 successes, a + b draws) >= a), the p-value of the leader against
    a rival to whom all that remains belongs or to the leader; the proof does not rest on it.
    """

    votes: int
    chunk: int
    error: float

    def __post_init__(self) -> None:
        if self.votes < 1 or self.chunk < 1:
            raise ValueError(f"votes and chunk must be at least 1, not {self.votes} and {self.chunk}")
        if not (isfinite(self.error) and 0 <= self.error < 1):
            raise ValueError(f"error must be at least 0 and below 1, not {self.error}")

    @property
    def looks(self) -> tuple[int, ...]:
        """Sample counts after which it looks, in order; the last is `votes`."""
        return (*range(self.chunk, self.votes, self.chunk), self.votes)

    @property
    def proven_error(self) -> float:
        """What the proof bounds the error by; at most `error`, less where counts being whole leaves a rest."""
        return _accepted(self.votes, self.chunk, self.error)[1]

    def accepted(self, seen: int) -> np.ndarray:
        """Bool (seen + 1, seen + 1): entry [a, b] says whether a leader of a votes is decided over a runner-up of b.

        Raises ValueError unless `seen` is a look before the last.
        """
        if seen not in self.looks[:-1]:
            raise ValueError(f"{seen} is no look before the last; looks are {self.looks}")
        return _accepted(self.votes, self.chunk, self.error)[0][self.looks.index(seen)]

    def decided(self, counts: Sequence[int], seen: int) -> bool:
        """Whether to stop: `counts` are the votes per answer among `seen` samples (abstentions are in `seen` alone).

        True at the last look. Raises ValueError unless `seen` is a look that has room for the counts.
        """
        if sum(counts) > seen or min(counts, default=0) < 0:
            raise ValueError(f"counts {list(counts)} cannot be the votes of {seen} samples")
        if seen == self.votes:
            return True
        first, second = sorted((*counts, 0, 0))[:-3:-1]
        return bool(self.accepted(seen)[first, second])


@lru_cache(maxsize=64)
def _accepted(votes: int, chunk: int, error: float) -> tuple[list[np.ndarray], float]:
    """The accepted set of every look before the last, and the bound on the error (see SequentialRule)."""
    looks = range(chunk, votes, chunk)
    spent = 0.0
    sets = []
    for j, seen in enumerate(looks, start=1):
        p_AB = _p_values(votes, seen)
        leader, rival = np.nonzero(p_AB <= error)
        # The surest states first; np.nonzero gives equal ones in order of b, so every prefix is closed downwards in b.
        order = np.argsort(p_AB[leader, rival], kind="stable")
        leader, rival = leader[order], rival[order]
        bound = np.zeros(len(order))
        for c in range(1, (votes - 1) // 2 + 1):
            wrong = np.cumsum(_probabilities(votes, seen, c, leader, rival))
            np.maximum(bound, (votes - c - 1) / c * wrong, out=bound)
        taken = int(np.searchsorted(bound, max(error * j / len(looks) - spent, 0.0), side="right"))
        spent += float(bound[taken - 1]) if taken else 0.0
        accepted_AB = np.zeros_like(p_AB, dtype=bool)
        accepted_AB[leader[:taken], rival[:taken]] = True
        sets.append(accepted_AB)
    return sets, spent


def _p_values(votes: int, seen: int) -> np.ndarray:
    """The p-value of every state (leader's votes a, rival's b) after `seen` samples; above 1 unless a > b.

    It does not fall in b, which the proof needs of the sets made from it: the last line sees to rounding.
    """
    p_AB = np.full((seen + 1, seen + 1), 2.0)
    for cast in range(1, seen + 1):
        both = cast + votes - seen
        won = np.arange(cast + 1)
        log_p = _log_binomial((both - 1) // 2, won) + _log_binomial(both - (both - 1) // 2, cast - won)
        tail = np.cumsum(np.exp(log_p - _log_binomial(both, np.array(cast)))[::-1])[::-1]
        leads = won > cast - won
        p_AB[won[leads], cast - won[leads]] = tail[leads]
    return np.maximum.accumulate(p_AB, axis=1)


def _probabilities(votes: int, seen: int, c: int, leader: np.ndarray, rival: np.ndarray) -> np.ndarray:
    """P(a of a class of c and b of one of c + 1 are among the first `seen` of `votes` samples), for each state."""
    rest = votes - 2 * c - 1
    log_p = _log_binomial(c, leader) + _log_binomial(c + 1, rival) + _log_binomial(rest, seen - leader - rival)
    return np.exp(log_p - _log_binomial(votes, np.array(seen)))


def _log_binomial(n: int, k: np.ndarray) -> np.ndarray:
    """log C(n, k); -inf outside 0 <= k <= n."""
    inside = np.clip(k, 0, n)
    log = gammaln(n + 1) - gammaln(inside + 1) - gammaln(n - inside + 1)
    return np.where((k >= 0) & (k <= n), log, -np.inf)
