"""Noisy oracle: true labels, a part of which was replaced by wrong ones. It reads true labels.

    label(q) = the true answer    with probability `correct`
             = a wrong answer     otherwise

The dose-response of label accuracy: the same reward, update and questions at any accuracy of the labels. Whether a
question's label is right is drawn once per question and seed and kept over the whole run, because that is what wrong
votes do: noise drawn anew at every step would cancel out over steps. Questions that are right at one `correct` are so
at any higher one with the same seed. Of n questions a binomial number is right, not exactly `correct` * n:
`target_accuracy` in the metrics says how many.

The wrong answer is one of the step's own samples, as a vote's would be:

    modal     the most common of the wrong answers: concentrated wrong votes
    random    any of the wrong answers, equally likely however rare: scattered wrong votes

Ties of `modal` and the choice of `random` go by one random order of all possible answers, which question and seed
name: the first of those sampled. So a wrong label stays what it is until it is sampled no more, or one that comes
before it is.

Edge cases: a question that should have a wrong label and has no wrong sample has no label, and rewards 0. Where a
right label has no right sample rewards are 0 too, as under `oracle`. Abstentions are never a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from ttrl_repro.answers import right_class
from ttrl_repro.rewards.base import Reward, Rollouts
from ttrl_repro.seeds import derive_seed, generator
from ttrl_repro.votes import Vote


class NoisyOracle(Reward):
    """correct: probability of a right label. wrong: which answer a wrong label is."""

    name: Literal["noisy_oracle"] = "noisy_oracle"
    correct: float = Field(ge=0, le=1)
    wrong: Literal["random", "modal"] = "modal"
    needs_gold: ClassVar[bool] = True

    def targets(self, rollouts: Rollouts) -> Sequence[str | None]:
        """See the module."""
        assert rollouts.gold_Q is not None
        return [
            gold
            if generator(rollouts.run_seed, "noisy oracle", question).random() < self.correct
            else self._wrong_label(vote, gold, derive_seed(rollouts.run_seed, "noisy oracle", "wrong", question))
            for question, vote, gold in zip(rollouts.question_ids, rollouts.votes_Q, rollouts.gold_Q, strict=True)
        ]

    def _wrong_label(self, vote: Vote, gold: str, seed: int) -> str | None:
        right = right_class(vote.counts, gold)
        wrong = {name: count for name, count in vote.counts.items() if name != right}
        most = max(wrong.values(), default=0)
        candidates = [name for name, count in wrong.items() if self.wrong == "random" or count == most]
        return min(candidates, key=lambda name: derive_seed(seed, name), default=None)
