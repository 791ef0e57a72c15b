"""The watch for collapse: label-free signs in the rows of metrics.jsonl -> alarms, and which checkpoint to trust.

A majority vote rewards agreement, whatever is agreed on: a run that answers "0" everywhere has a majority ratio of 1
(Co-rewarding, arXiv 2508.00410; CoVo, arXiv 2506.08745). So no sign here is good because agreement is high, and a
checkpoint is never chosen for it. Every sign is compared with the run's own first steps, since the questions' true
answers may coincide, and some models are terse. Nothing here reads a metric that needs true labels. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ttrl_repro.config import Watch
from ttrl_repro.records import Row

WATCHED = ("top_answer_share", "majority_ratio", "distinct_answers", "entropy", "mean_tokens")


@dataclass(frozen=True)
class Alarm:
    """A sign of collapse that has shown on `patience` steps in a row, from `since` to `step`.

    sign: the metric that it was seen in. reason: what was seen at `step`, in words.
    """

    step: int
    since: int
    sign: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """The evaluated step that a label-free rule picks, and the alarm that it stays clear of (None: no alarm)."""

    step: int
    alarm: Alarm | None


def signs(rows: Sequence[Row], settings: Watch) -> list[dict[str, str]]:
    """The signs that show in each of `rows`, those of metrics.jsonl from step 1 on: sign -> what is seen, in words.

    None shows in the first `reference_steps` rows, nor in a metric that is missing, as in records made before it was.
    """
    first, later = rows[: settings.reference_steps], rows[settings.reference_steps :]
    reference = {}
    for name in WATCHED:
        known = [row[name] for row in first if name in row]
        if known:
            reference[name] = sum(known) / len(known)
    when = f"in steps 1 to {len(first)}" if len(first) > 1 else "at step 1"
    shown: list[dict[str, str]] = [{} for _ in first]
    for row in later:
        shown.append({})
        for sign, seen in SIGNS.items():
            if all(name in row and name in reference for name in seen.metrics):
                reason = seen.test(row, reference, settings, when)
                if reason is not None:
                    shown[-1][sign] = reason
    return shown


def alarms(rows: Sequence[Row], settings: Watch) -> list[Alarm]:
    """The first alarm of every sign, in order of their steps."""
    shown, found = signs(rows, settings), []
    for sign in SIGNS:
        steps: list[int] = []  # in a row, that show it
        for row, reasons in zip(rows, shown, strict=True):
            steps = [*steps, row["step"]] if sign in reasons else []
            if len(steps) == settings.patience:
                found.append(Alarm(row["step"], steps[0], sign, reasons[sign]))
                break
    return sorted(found, key=lambda alarm: alarm.step)


def last_clear_step(rows: Sequence[Row], settings: Watch) -> int:
    """The last step in which no sign shows; 0 without one."""
    shown = signs(rows, settings)
    return max((row["step"] for row, reasons in zip(rows, shown, strict=True) if not reasons), default=0)


def precedes(step: int, clear: int) -> bool:
    """Whether the weights after `step` steps are no newer than those that step `clear` sampled from."""
    return step + 1 <= clear  # step t samples from the weights after t - 1 steps


def checkpoint(rows: Sequence[Row], evaluated_steps: Iterable[int], settings: Watch) -> Choice:
    """The label-free rule: the last evaluated weights before those that the first alarm's sign was first seen in.

    Without an alarm, the last evaluated. `evaluated_steps`: 0 is the base, which is evaluated first and so always
    comes before an alarm. Raises ValueError without a step that does.
    """
    first = next(iter(alarms(rows, settings)), None)
    before = [step for step in evaluated_steps if first is None or precedes(step, first.since - 1)]
    if not before:
        raise ValueError("no step was evaluated before the first alarm")
    return Choice(max(before), first)


Test = Callable[[Row, Mapping[str, float], Watch, str], str | None]


@dataclass(frozen=True)
class _Sign:
    """metrics: what the sign is read from. test: (row, reference, settings, when) -> the reason, or None."""

    metrics: tuple[str, ...]
    test: Test


def _one_answer(row: Row, reference: Mapping[str, float], settings: Watch, when: str) -> str | None:
    share, before = row["top_answer_share"], reference["top_answer_share"]
    if share - before < settings.top_answer_rise:
        return None
    return f"the most common answer covers {share:.0%} of all samples, {before:.0%} {when}"


def _unanimous(row: Row, reference: Mapping[str, float], settings: Watch, when: str) -> str | None:
    ratio, distinct = row["majority_ratio"], row["distinct_answers"]
    before = reference["distinct_answers"]
    # A question that was easy from the start has few answers: that is no loss of diversity.
    if ratio < settings.unanimity or distinct > settings.distinct_fall * before:
        return None
    return (
        f"{ratio:.0%} of a question's samples agree with its vote, {reference['majority_ratio']:.0%} {when}, "
        f"and {distinct:.1f} distinct answers are left of {before:.1f}"
    )


def _low_entropy(row: Row, reference: Mapping[str, float], settings: Watch, when: str) -> str | None:
    entropy, before = row["entropy"], reference["entropy"]
    if entropy >= settings.entropy_fall * before:
        return None
    return f"the entropy of a token is {entropy:.2g} nats, {before:.2g} {when}"


def _length(row: Row, reference: Mapping[str, float], settings: Watch, when: str) -> str | None:
    tokens, before = row["mean_tokens"], reference["mean_tokens"]
    if settings.tokens_fall * before <= tokens <= settings.tokens_rise * before:
        return None
    return f"a sample has {tokens:.0f} tokens on average, {before:.0f} {when}"


SIGNS = {
    "top_answer_share": _Sign(("top_answer_share",), _one_answer),
    "majority_ratio": _Sign(("majority_ratio", "distinct_answers"), _unanimous),
    "entropy": _Sign(("entropy",), _low_entropy),
    "mean_tokens": _Sign(("mean_tokens",), _length),
}
