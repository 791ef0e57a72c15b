"""What a run shows, as numbers: the quantities that findings and figures compare.

A quantity is a measure of an arm's runs. Of evaluations (any task and split that the run was evaluated on): those of
`analysis.claims.MEASURES`, and those of EVALUATED here; of training itself: every metric of metrics.jsonl by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from analysis.claims import LAST_STEPS, MEASURES, Evaluations
from analysis.load import Study, rows_of
from ttrl_repro.errors import UserError
from ttrl_repro.parts import Strict
from ttrl_repro.stats import encode_answers, maj_at_k_Q, majority_ratio_Q, replicates_interval

At = Literal["end", "peak", "first", "last", "max", "min", "mean"]
OF_EVALUATIONS: tuple[At, ...] = ("end", "peak")
AGREED = 0.5  # the base's majority ratio above which a question counts as agreed on


@dataclass(frozen=True)
class Samples:
    """Samples of Q questions, N each: codes_QN as in `stats`, whether each ended by itself, and its tokens."""

    codes_QN: np.ndarray
    finished_QN: np.ndarray
    tokens_QN: np.ndarray

    def first(self, k: int) -> Samples:
        """The first k samples of every question."""
        return Samples(self.codes_QN[:, :k], self.finished_QN[:, :k], self.tokens_QN[:, :k])

    def rest(self, k: int) -> Samples:
        """The samples after the first k, or all if there are no more: what questions are sorted by, so that what sorts
        them is not what is then averaged (regression to the mean)."""
        after = Samples(self.codes_QN[:, k:], self.finished_QN[:, k:], self.tokens_QN[:, k:])
        return after if after.codes_QN.shape[1] else self

    def factors(self) -> tuple[float, float, float]:
        """Shares whose product is avg: came to an end or to an answer; of these, with an answer; of these, right.

        Of nothing: 0. An answer that was given before the sample was cut off counts as an end.
        """
        answered = self.codes_QN >= 0
        ended, right = self.finished_QN | answered, self.codes_QN == 0
        shares = []
        for part, whole in ((ended, np.ones_like(ended)), (answered, ended), (right, answered)):
            shares.append(float(part.sum() / whole.sum()) if whole.sum() else 0.0)
        return shares[0], shares[1], shares[2]


@dataclass(frozen=True)
class Pair:
    """Two evaluations of one set at the evaluation temperature, of the base and of trained weights; and both greedy.

    base_best_avg: the base's best of greedy and avg@k over its temperatures.
    """

    base: Samples
    end: Samples
    base_greedy: Samples
    end_greedy: Samples
    k: int
    base_best_avg: float


def decomposition(before: tuple[float, ...], after: tuple[float, ...]) -> tuple[float, ...]:
    """What each factor contributes to the change of their product (Shapley values: the mean over orders of changing).

    They sum to prod(after) - prod(before).
    """
    n = len(before)
    parts = np.zeros(n)
    orders = list(permutations(range(n)))
    for order in orders:
        now = list(before)
        for i in order:
            value = float(np.prod(now))
            now[i] = after[i]
            parts[i] += float(np.prod(now)) - value
    return tuple(float(part) for part in parts / len(orders))


def _part(i: int) -> Callable[[Pair], float]:
    return lambda pair: decomposition(pair.base.first(pair.k).factors(), pair.end.first(pair.k).factors())[i]


def gains_Q(pair: Pair) -> np.ndarray:
    """avg@k after training minus the base's, of every question."""
    before_Q, after_Q = ((one.first(pair.k).codes_QN == 0).mean(axis=1) for one in (pair.base, pair.end))
    return after_Q - before_Q


def _mean_where(values_Q: np.ndarray, where_Q: np.ndarray) -> float:
    """Mean over these questions; NaN of none."""
    return float(values_Q[where_Q].mean()) if where_Q.any() else float("nan")


def agreed_Q(pair: Pair) -> np.ndarray:
    """Whether more than AGREED of the base's samples of a question agree, by those that no gain is measured on."""
    return majority_ratio_Q(pair.base.rest(pair.k).codes_QN) > AGREED


def solvable_Q(pair: Pair) -> np.ndarray:
    """Whether the base's vote on a question is right, by those samples."""
    return maj_at_k_Q(pair.base.rest(pair.k).codes_QN) > AGREED


def _turned_Q(pair: Pair, before: bool) -> np.ndarray:
    was_Q, now_Q = (one.codes_QN[:, 0] == 0 for one in (pair.base_greedy, pair.end_greedy))
    return ((was_Q == before) & (now_Q != before)).astype(float)


# name -> what it is, and its function.
EVALUATED: dict[str, tuple[str, Callable[[Pair], float]]] = {
    "gain": ("avg@k minus the base's", lambda pair: float(gains_Q(pair).mean())),
    "net_gain": (
        "avg@k minus the base's best of greedy and avg@k over its temperatures: what a lower temperature does not give",
        lambda pair: float((pair.end.first(pair.k).codes_QN == 0).mean()) - pair.base_best_avg,
    ),
    "tokens": ("mean tokens of a sample", lambda pair: float(pair.end.tokens_QN.mean())),
    "base_tokens": ("mean tokens of a base's sample", lambda pair: float(pair.base.tokens_QN.mean())),
    "termination_part": ("part of the gain by samples that end by themselves", _part(0)),
    "format_part": ("part of the gain by samples that give an answer, of those that end", _part(1)),
    "reasoning_part": ("part of the gain by answers that are right", _part(2)),
    "form_part": (
        "part of the gain by samples that come to an answer at all: termination and format",
        lambda pair: _part(0)(pair) + _part(1)(pair),
    ),
    "learned": ("share of questions whose greedy answer turned right", lambda pair: _turned_Q(pair, False).mean()),
    "corrupted": ("share of questions whose greedy answer turned wrong", lambda pair: _turned_Q(pair, True).mean()),
    "learned_divided": (
        "the same, of questions on which the base's samples are divided",
        lambda pair: _mean_where(_turned_Q(pair, False), ~agreed_Q(pair)),
    ),
    "corrupted_divided": (
        "turned wrong, of questions on which the base's samples are divided",
        lambda pair: _mean_where(_turned_Q(pair, True), ~agreed_Q(pair)),
    ),
    "gain_agreed": (
        "gain where most of the base's samples agree",
        lambda pair: _mean_where(gains_Q(pair), agreed_Q(pair)),
    ),
    "gain_divided": ("gain where they do not", lambda pair: _mean_where(gains_Q(pair), ~agreed_Q(pair))),
    "solvable_part": (
        "part of the gain by questions on which the base's vote is right",
        lambda pair: float((gains_Q(pair) * solvable_Q(pair)).mean()),
    ),
    "unsolvable_part": (
        "part of the gain by the other questions",
        lambda pair: float((gains_Q(pair) * ~solvable_Q(pair)).mean()),
    ),
}


class Quantity(Strict):
    """A measure of every run of an arm.

    at: of an evaluation's measure `end` (after the last step) or `peak` (the highest over the evaluated steps, the base
    included). Of a metric of training `first` (step 1), `last` (mean over the last LAST_STEPS steps), `max`, `min`,
    `mean`. task, split: of evaluations; `trained` is the arm's own task.
    """

    arm: str = Field(min_length=1)
    measure: str = Field(min_length=1)
    at: At = "end"
    task: str = Field("trained", min_length=1)
    split: Literal["train", "fresh"] = "train"

    @model_validator(mode="after")
    def _measured_somewhere(self) -> Quantity:
        evaluated = self.measure in MEASURES or self.measure in EVALUATED
        if evaluated != (self.at in OF_EVALUATIONS):
            kind = "an evaluation: use end, peak" if evaluated else "training: use first, last, max, min, mean"
            raise ValueError(f"at: {self.measure} is of {kind}")
        if not evaluated and (self.task, self.split) != ("trained", "train"):
            raise ValueError(f"{self.measure} is of training itself: leave out task and split")
        return self

    def label(self) -> str:
        """As `avg (s-30)`, for tables."""
        when = "" if self.at == "end" else f", {self.at}"
        where = "" if (self.task, self.split) == ("trained", "train") else f" on {self.task} {self.split}"
        return f"{self.measure}{when} ({self.arm}{where})"


def estimated(values: Sequence[float] | np.ndarray) -> tuple[int, float, float, float]:
    """n, mean, and the bounds of the 95 % t interval over replicates: NaN of one alone."""
    found, n = replicates_interval(np.asarray(values, dtype=float)), len(values)
    return (n, found.value, found.low, found.high) if n > 1 else (n, found.value, np.nan, np.nan)


class Measurements:
    """Values of quantities over the runs of a study; what a run's answers say is decoded once."""

    def __init__(self, study: Study) -> None:
        self._samples: dict[str, dict[tuple[str, str, int, float], Samples]] = {}
        self._answers = dict(tuple(study.answers.groupby("run", sort=False))) if len(study.answers) else {}
        self._metrics = {
            str(run): {
                str(metric): dict(zip(rows["step"], rows["value"], strict=True))
                for metric, rows in group.groupby("metric", sort=False)
            }
            for run, group in study.metrics.groupby("run", sort=False)
        }

    def of(self, run: Mapping[str, Any], quantity: Quantity) -> float:
        """A run's value. Raises UserError, naming the run, if its record does not have what the measure needs."""
        if quantity.at not in OF_EVALUATIONS:
            return self._metric(run, quantity)
        task = run["trained_task"] if quantity.task == "trained" else quantity.task
        samples = self.samples(run["run"])
        steps = sorted({at for name, split, at, _ in samples if (name, split) == (task, quantity.split)})
        chosen = [run["steps_done"]] if quantity.at == "end" else steps
        return max(self._at(run, quantity, task, step) for step in chosen or [run["steps_done"]])

    def metric(self, run: str, name: str) -> dict[int, float]:
        """Step -> value of a metric of a run's training; empty if it has none."""
        return self._metrics.get(run, {}).get(name, {})

    def samples(self, run: str) -> dict[tuple[str, str, int, float], Samples]:
        """(task, split, step, temperature) -> samples with true labels, questions in the order of their ids."""
        if run not in self._samples:
            self._samples[run] = _decoded(self._answers[run]) if run in self._answers else {}
        return self._samples[run]

    def evaluations(self, run: Mapping[str, Any], task: str, split: str, step: int) -> tuple[Evaluations, Pair]:
        """The base's and a later step's evaluation of a set. Raises UserError as `of`."""
        found, t = self.samples(run["run"]), run["temperature"]
        for what, at in (("the base", 0), ("the trained model", step)):
            for temperature in (0.0, t):
                if (task, split, at, temperature) not in found:
                    raise UserError(
                        f"{run['run']}: no evaluation of {what} on {task} ({split}), T={temperature:g}, with true "
                        f"labels, after {at} steps"
                    )
        base, end = (
            {
                temperature: one.codes_QN
                for (name, part, at_step, temperature), one in found.items()
                if (name, part, at_step) == (task, split, at)
            }
            for at in (0, step)
        )
        evaluations = Evaluations(base, end, t, run["k"])
        pair = Pair(
            base=found[task, split, 0, t],
            end=found[task, split, step, t],
            base_greedy=found[task, split, 0, 0.0],
            end_greedy=found[task, split, step, 0.0],
            k=run["k"],
            base_best_avg=evaluations.base_best_avg(),
        )
        return evaluations, pair

    def _at(self, run: Mapping[str, Any], quantity: Quantity, task: str, step: int) -> float:
        evaluations, pair = self.evaluations(run, task, quantity.split, step)
        if quantity.measure in MEASURES:
            return MEASURES[quantity.measure](evaluations)
        return float(EVALUATED[quantity.measure][1](pair))

    def _metric(self, run: Mapping[str, Any], quantity: Quantity) -> float:
        values = self.metric(run["run"], quantity.measure)
        if not values:
            raise UserError(f"{run['run']}: its metrics have no {quantity.measure}")
        last = run["steps_done"]
        if quantity.at in ("first", "last"):
            steps = [1] if quantity.at == "first" else range(last - LAST_STEPS + 1, last + 1)
            chosen = [values[step] for step in steps if step in values]
            if not chosen:
                raise UserError(f"{run['run']}: no {quantity.measure} at its {quantity.at} steps")
            return float(np.mean(chosen))
        every = np.array(list(values.values()))
        return float({"max": every.max(), "min": every.min(), "mean": every.mean()}[quantity.at])


def _decoded(answers: pd.DataFrame) -> dict[tuple[str, str, int, float], Samples]:
    found: dict[tuple[str, str, int, float], Samples] = {}
    labelled = answers[answers["gold_key"].notna()].sort_values(["question_id", "sample"], kind="stable")
    where: Any
    for where, group in labelled.groupby(["task", "split", "step", "temperature"], sort=False):
        task, split, step, t = where
        rows = rows_of(group[["question_id", "key", "gold_key"]])
        keys: dict[str, list[str | None]] = {}
        gold: dict[str, str] = {}
        for row in rows:
            keys.setdefault(row["question_id"], []).append(row["key"])
            gold[row["question_id"]] = row["gold_key"]
        codes_QN = encode_answers(list(keys.values()), list(gold.values()))
        shape = codes_QN.shape
        # Parquet keeps fp32: 0.6 comes back as 0.6000000238.
        found[task, split, int(step), round(float(t), 4)] = Samples(
            codes_QN,
            group["finished"].to_numpy(dtype=bool).reshape(shape),
            group["tokens"].to_numpy(dtype=float).reshape(shape),
        )
    return found
