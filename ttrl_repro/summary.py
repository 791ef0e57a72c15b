"""What an evaluation says: numbers with intervals, from its rows. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ttrl_repro.records import Row
from ttrl_repro.stats import (
    Estimate,
    answers_interval,
    avg_at_k,
    bare,
    encode_answers,
    maj_at_k,
    majority_ratio,
    questions_interval,
)

Codes = dict[tuple[str, str, int, float], np.ndarray]


def codes_by_protocol(rows: Iterable[Row]) -> Codes:
    """(task, split, step, temperature) -> codes_QN (see `stats`), for labelled tasks.

    Temperature 0 is greedy. Questions and samples are in the order of their rows.
    """
    answers: dict[tuple[str, str, int, float], dict[str, tuple[str, list[str | None]]]] = {}
    for row in rows:
        if row["gold_key"] is None:
            continue
        # Parquet keeps fp32: 0.6 comes back as 0.6000000238.
        where = (row["task"], row["split"], row["step"], round(float(row["temperature"]), 4))
        question = answers.setdefault(where, {}).setdefault(row["question_id"], (row["gold_key"], []))
        question[1].append(row["key"])
    return {
        where: encode_answers([keys for _, keys in questions.values()], [gold for gold, _ in questions.values()])
        for where, questions in answers.items()
    }


@dataclass(frozen=True)
class Line:
    """One task and split of the main table: the base with its baselines, and the trained model."""

    task: str
    split: str
    questions: int
    base_greedy: Estimate
    base_avg: Estimate
    base_best_avg: Estimate
    best_avg_temperature: float
    base_maj: Estimate
    base_best_maj: Estimate
    best_maj_temperature: float
    final_greedy: Estimate
    final_avg: Estimate
    final_maj: Estimate
    final_samples: int  # behind final_maj


def main_table(rows: Iterable[Row], trained: str, last_step: int, temperature: float, k: int) -> list[Line]:
    """The main table of a run: every task with an evaluation at step 0 and at `last_step` (after it).

    avg@k uses the first k samples, maj@n all of them. The base's best temperatures are chosen on the
    same samples that are then reported, which favours the base. Greedy answers get an interval over
    questions, but not those of the trained weights on the task that they were `trained` on.
    """
    if last_step == 0:
        return []
    codes = codes_by_protocol(rows)
    lines = []
    for task, split in dict.fromkeys((task, split) for task, split, _, _ in codes):

        def at(step: int, t: float, task: str = task, split: str = split) -> np.ndarray:
            return codes[task, split, step, t]

        if (task, split, last_step, temperature) not in codes:
            continue
        candidates = sorted(t for a, b, step, t in codes if (a, b, step) == (task, split, 0) and t > 0)
        best_avg = max(candidates, key=lambda t: avg_at_k(at(0, t)[:, :k]))
        best_maj = max(candidates, key=lambda t: maj_at_k(at(0, t)))
        lines.append(
            Line(
                task=task,
                split=split,
                questions=len(at(0, 0.0)),
                base_greedy=questions_interval(at(0, 0.0)[:, 0] == 0),
                base_avg=answers_interval(avg_at_k, at(0, temperature)[:, :k]),
                base_best_avg=answers_interval(avg_at_k, at(0, best_avg)[:, :k]),
                best_avg_temperature=best_avg,
                base_maj=answers_interval(maj_at_k, at(0, temperature)),
                base_best_maj=answers_interval(maj_at_k, at(0, best_maj)),
                best_maj_temperature=best_maj,
                final_greedy=(
                    bare(avg_at_k(at(last_step, 0.0)))
                    if (task, split) == (trained, "train")
                    else questions_interval(at(last_step, 0.0)[:, 0] == 0)
                ),
                final_avg=answers_interval(avg_at_k, at(last_step, temperature)[:, :k]),
                final_maj=answers_interval(maj_at_k, at(last_step, temperature)),
                final_samples=at(last_step, temperature).shape[1],
            )
        )
    return lines


def headline(codes: Codes, k: int) -> dict[str, float | None]:
    """One evaluation as flat metrics: `eval/TASK/SPLIT/greedy`, `.../avg@k`, `.../maj@n` (at each temperature)."""
    out: dict[str, float | None] = {}
    for (task, split, _, temperature), codes_QN in codes.items():
        at = f"eval/{task}/{split}"
        if temperature == 0:
            out[f"{at}/greedy"] = avg_at_k(codes_QN)
        else:
            out[f"{at}/T={temperature:g}/avg@{k}"] = avg_at_k(codes_QN[:, :k])
            out[f"{at}/T={temperature:g}/maj@{codes_QN.shape[1]}"] = maj_at_k(codes_QN)
    return out


def mean_majority_ratio(rows: Iterable[Row]) -> float:
    """Share of a question's samples (abstentions included) that agree with its vote, averaged; label-free."""
    keys: dict[str, list[str | None]] = {}
    for row in rows:
        keys.setdefault(row["question_id"], []).append(row["key"])
    # Any fixed code will do for gold: the ratio does not look at it.
    return majority_ratio(encode_answers(list(keys.values()), ["\0"] * len(keys)))
