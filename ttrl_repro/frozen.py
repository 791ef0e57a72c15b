"""Labels that were voted once, before training: `frozen_labels.json` of a record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ttrl_repro.errors import UserError
from ttrl_repro.records import write_atomic
from ttrl_repro.votes import Vote


@dataclass(frozen=True)
class FrozenLabel:
    """One question's label and its key, both None if all samples abstained; samples, their vote and their tokens."""

    label: str | None
    key: str | None
    n: int
    majority_ratio: float
    tokens: int

    @classmethod
    def of(cls, vote: Vote, tokens: int) -> FrozenLabel:
        """From a vote whose samples have so many tokens together."""
        return cls(vote.label, vote.key, vote.n, vote.majority_ratio, tokens)


def write_frozen(path: Path, labels: Mapping[str, FrozenLabel]) -> None:
    """Write the labels by question id, atomically."""
    write_atomic(path, json.dumps({question: asdict(label) for question, label in labels.items()}, indent=1) + "\n")


def read_frozen(path: Path, question_ids: Sequence[str]) -> dict[str, FrozenLabel]:
    """What `write_frozen` wrote. Raises UserError unless it holds a label for each of these questions, and no other."""
    try:
        content = json.loads(path.read_text())
        labels = {question: FrozenLabel(**label) for question, label in content.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot read the frozen labels ({error}); start a new run") from error
    if labels.keys() != set(question_ids):
        raise UserError(f"{path}: its questions are not the task's; start a new run")
    return labels
