"""N answers to one question -> one pseudo-label and its diagnostics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, isfinite, log

from ttrl_repro.answers import canonical_all, classes
from ttrl_repro.seeds import generator


@dataclass(frozen=True)
class Vote:
    """The outcome of a majority vote over N samples.

    label: the answer that the reward accepts, as the samples wrote it most often; None if all abstained.
    key: the key of its class. keys: the class of every sample, (N,); None for an abstention.
    counts: samples of each class. weights: what they weigh together, in decreasing order, ties in
    order of the key; the same numbers as `counts` unless the vote was weighted. weight: of all samples.
    tied: number of classes that share the top weight (1: no tie).
    """

    label: str | None
    key: str | None
    keys: tuple[str | None, ...]
    counts: dict[str, int]
    weights: dict[str, float]
    weight: float
    tied: int

    @property
    def n(self) -> int:
        """Samples, abstentions included."""
        return len(self.keys)

    @property
    def majority_ratio(self) -> float:
        """Share of all samples, abstentions included, that agree with the label (TTRL, appendix)."""
        return self.counts[self.key] / self.n if self.key is not None else 0.0

    @property
    def margin(self) -> float:
        """Weight of the label's class minus that of the runner-up, as a share of all samples' weight."""
        first, second = [*self.weights.values(), 0, 0][:2]
        return (first - second) / self.weight if self.weight else 0.0

    @property
    def entropy(self) -> float:
        """Entropy in nats of the weights of the votes that were cast."""
        cast = sum(self.weights.values())
        return sum(-w / cast * log(w / cast) for w in self.weights.values() if w > 0)

    @property
    def abstained(self) -> int:
        """Samples without an answer."""
        return self.n - sum(self.counts.values())


def vote(answers: Sequence[str | None], weights: Sequence[float] | None = None, seed: int = 0) -> Vote:
    """The majority vote over the classes of the answers (`answers.classes`).

    Samples without an answer (None) never vote. weights: of each sample, at least 0 (default: 1 each); a class of
    weight 0 cannot win. A tie is broken by a draw among the tied classes, seeded and independent of the
    order of the samples. Raises ValueError without samples, and for weights that make no sense.
    """
    if not answers:
        raise ValueError("a vote needs at least one sample")
    own = canonical_all(answers)
    classed = classes(key for key in own if key is not None)
    keys = tuple(None if key is None else classed[key] for key in own)
    counts = Counter(key for key in keys if key is not None)
    heavy, tied = heaviest(keys, weights)
    total = len(answers) if weights is None else fsum(weights)
    if not tied:
        return Vote(None, None, keys, {key: counts[key] for key in heavy}, heavy, total, 0)
    key = drawn(tied, seed)
    # Of the ways of writing it, one whose own key is the class's: the label then always matches itself.
    written = Counter(answer for answer, one in zip(answers, own, strict=True) if one == key and answer is not None)
    label = min(written.items(), key=lambda item: (-item[1], item[0]))[0]
    return Vote(label, key, keys, {key: counts[key] for key in heavy}, heavy, total, len(tied))


def heaviest(keys: Sequence[str | None], weights: Sequence[float] | None = None) -> tuple[dict[str, float], list[str]]:
    """What the samples of each class weigh together, in decreasing order, and the classes that share the top weight.

    Samples of no class (None) never vote, and a class of weight 0 cannot win: there may be no top class. Equal weights
    are in order of the key. Raises ValueError for weights that make no sense.
    """
    if weights is None:
        heavy: dict[str, float] = dict(Counter(key for key in keys if key is not None))
    elif len(weights) != len(keys) or not all(isfinite(w) and w >= 0 for w in weights):
        raise ValueError("a vote needs one weight for each sample, finite and at least 0")
    else:
        of_class: dict[str, list[float]] = {}
        for key, weight in zip(keys, weights, strict=True):
            if key is not None:
                of_class.setdefault(key, []).append(weight)
        # Summed exactly, so that the order of the samples does not matter.
        heavy = {key: fsum(own) for key, own in of_class.items()}
    heavy = dict(sorted(heavy.items(), key=lambda item: (-item[1], item[0])))
    top = max(heavy.values(), default=0)
    return heavy, [key for key, weight in heavy.items() if weight == top and top > 0]


def drawn(tied: Sequence[str], *seed: int | str) -> str:
    """One of the tied classes, given in order of their keys, by a draw that `seed` names."""
    return tied[0] if len(tied) == 1 else tied[int(generator(*seed, "tie").integers(len(tied)))]
