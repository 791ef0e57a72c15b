"""N answers to one question -> one pseudo-label and its diagnostics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from ttrl_repro.answers import canonical
from ttrl_repro.seeds import generator


@dataclass(frozen=True)
class Vote:
    """The outcome of a majority vote.

    label: the answer that the reward accepts, as the samples wrote it most often; None if all abstained.
    key: its key. counts: votes of each key, in decreasing order, ties in order of the key.
    n: samples, abstentions included. tied: number of keys that share the top count (1: no tie).
    """

    label: str | None
    key: str | None
    counts: dict[str, int]
    n: int
    tied: int

    @property
    def majority_ratio(self) -> float:
        """Share of all samples, abstentions included, that agree with the label (TTRL, appendix)."""
        return self.counts[self.key] / self.n if self.key is not None else 0.0

    @property
    def margin(self) -> float:
        """Top count minus the second count, as a share of all samples."""
        top = [*self.counts.values(), 0, 0]
        return (top[0] - top[1]) / self.n

    @property
    def entropy(self) -> float:
        """Entropy in nats of the votes that were cast."""
        cast = sum(self.counts.values())
        return sum(-c / cast * log(c / cast) for c in self.counts.values())

    @property
    def abstained(self) -> int:
        """Samples without an answer."""
        return self.n - sum(self.counts.values())


def vote(answers: Sequence[str | None], seed: int = 0) -> Vote:
    """The majority vote over the answers' keys.

    Samples without an answer (None) never vote. A tie is broken by a draw among the tied keys, seeded
    and independent of the order of the samples. Raises ValueError without samples.
    """
    if not answers:
        raise ValueError("a vote needs at least one sample")
    written: dict[str, Counter[str]] = {}
    for answer in answers:
        key = canonical(answer)
        if answer is not None and key is not None:
            written.setdefault(key, Counter())[answer] += 1
    counts = {key: forms.total() for key, forms in written.items()}
    counts = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    if not counts:
        return Vote(None, None, {}, len(answers), 0)
    top = max(counts.values())
    tied = [key for key, count in counts.items() if count == top]
    key = tied[0] if len(tied) == 1 else tied[int(generator(seed, "tie").integers(len(tied)))]
    label = min(written[key].items(), key=lambda item: (-item[1], item[0]))[0]
    return Vote(label, key, counts, len(answers), len(tied))
