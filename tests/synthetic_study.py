"""Records of every arm of the study with made-up numbers, in seconds: to draw, judge and report without training.

    python -m tests.synthetic_study FOLDER [--replicates 3]

Nothing measured is in them; no test looks at what the numbers say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from analysis.arms import Planned, read_arms
from analysis.claims import seeds_of
from ttrl_repro import laboratory
from ttrl_repro.config import Experiment, Seeds
from ttrl_repro.records import Record

QUESTIONS, POINTS = 6, 12
RATES = ("label_accuracy", "reward_accuracy", "advantage_accuracy", "ground_truth_ratio", "majority_ratio")
OTHERS = ("wrong_label_reward_accuracy", "wrong_label_majority_ratio", "entropy", "top_answer_share")


def write_study(folder: Path, arms: Mapping[str, Planned], replicates: int) -> None:
    """A finished record of every arm and replicate, in folder/ARM/rR; of fewer steps than the arm's."""
    for number, (arm, planned) in enumerate(arms.items()):
        for replicate in range(replicates):
            base, draw, rl = seeds_of(replicate)
            seeds = Seeds(base=base, draw=draw, rl=rl)
            run = planned.experiment.model_copy(update={"seeds": seeds})
            write_run(folder / arm / f"r{replicate}", run, np.random.default_rng([number, replicate]))


def write_run(folder: Path, experiment: Experiment, rng: np.random.Generator, whole: bool = False) -> Record:
    """A finished record of an experiment. whole: with every step and evaluation, as one that was really run."""
    frozen, seed = laboratory.read(), experiment.seeds.base
    model = {
        "name": experiment.model,
        "parameters": 1000,
        "weights": frozen.weights.get(f"{experiment.model}-seed{seed}", f"made here, seed {seed}"),
        "recipe": frozen.recipes[experiment.model],
    }
    task = {
        "name": experiment.task,
        "questions": QUESTIONS,
        "fingerprint": f"{experiment.task} {experiment.seeds.draw}",
    }
    record = Record.create(folder, experiment, {"model": model, "task": task, "laboratory": frozen.content_hash()})
    # The first and the last steps stand for all.
    last = experiment.train.steps
    first = last if whole else min(POINTS, last)
    steps = np.unique([*range(1, first + 1), *range(max(last - 4, 1), last + 1)])
    start, rise = rng.uniform(0.3, 0.6), rng.uniform(-0.1, 0.3)
    for step in steps:
        level = start + rise * step / last
        row = {name: float(np.clip(level + rng.normal(0, 0.02), 0, 1)) for name in RATES}
        row |= {name: float(rng.uniform(0.1, 0.6)) for name in OTHERS}
        record.append("metrics.jsonl", {"step": int(step), **row})
        record.write_votes(int(step), [_vote(int(step), question, rng) for question in range(QUESTIONS)])
    for step in (0, last // 2, last):
        record.write_eval(step, _answers(experiment, step, start + rise * step / last, rng))
    record.manifest.update(steps_done=last, git=None)
    record.manifest["cost"].update(tokens_sampled=1000 * whole, seconds=1.0)
    record.close("finished")
    return record


def _vote(step: int, question: int, rng: np.random.Generator) -> dict[str, Any]:
    key = f"k{int(rng.random() < 0.4)}"
    counts = {"top_count": 5, "second_count": 2, "gold_count": 3, "n": 8, "classes": 3, "tied": 1, "abstained": 0}
    names = {"question_id": f"q{question}", "label": key, "label_key": key, "target_key": key}
    return {"step": step, **names, "label_correct": key == "k0", "kept": True, **counts}


def _answers(experiment: Experiment, step: int, right: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    settings, rows = experiment.evaluate, []
    temperatures = settings.base_temperatures if step == 0 else (settings.temperature,)
    sets = [(experiment.task, "train"), *([(experiment.task, "fresh")] if settings.fresh else [])]
    for task, split in [*sets, *((task, "train") for task in settings.tasks)]:
        for temperature in (0.0, *temperatures):
            for question in range(QUESTIONS):
                for sample in range(settings.votes if temperature else 1):
                    key = None if rng.random() < 0.05 else "k0" if rng.random() < right else f"k{rng.integers(1, 4)}"
                    rows.append(
                        {
                            "step": step, "task": task, "split": split, "temperature": temperature, "top_p": 0.95,
                            "protocol": "sampled" if temperature else "greedy", "question_id": f"q{question}",
                            "sample": sample, "answer": key, "key": key, "gold_key": "k0",
                            "tokens": int(rng.integers(10, 60)), "finished": bool(rng.random() < 0.95),
                        }
                    )  # fmt: skip
    return rows


def main(folder: Path, replicates: Annotated[int, typer.Option(min=1)] = 3) -> None:
    """Write the records."""
    write_study(folder, read_arms(), replicates)
    print(f"written: {folder}")


if __name__ == "__main__":
    typer.run(main)
