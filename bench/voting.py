"""Speed of voting beside math-verify, alternating in one run, on real sampled answers.

    python bench/voting.py [--answers ../shared/data/votes] [--repeats 5]

`--answers` is a folder of files as `ttrl votes` reads them, named aime2024_*.jsonl and math500_*.jsonl. Peers:

- each distinct string once: parse every distinct string once with math-verify (over all questions), then
  verify it against one answer of each class of its question: the sensible alternative;
- pairwise: parse every answer, verify every pair of a question's answers. On every n-th question only, for time.

Ours is timed cold (empty cache, worker not yet started) and warm. Writes bench/results/voting.json and .txt.
"""

from __future__ import annotations

import itertools
import json
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from math_verify import parse, verify

from ttrl_repro.answers.canonical import forget
from ttrl_repro.records import environment
from ttrl_repro.seeds import generator
from ttrl_repro.votes import vote

RESULTS = Path(__file__).resolve().parent / "results"
STEP = (32, 64)  # questions and answers of the step that is timed

Question = Sequence[str | None]


def seconds(work: Callable[[Sequence[Question]], None], questions: Sequence[Question]) -> float:
    """How long `work` takes on the questions."""
    started = time.perf_counter()
    work(questions)
    return time.perf_counter() - started


def ours(questions: Sequence[Question]) -> None:
    """A vote on every question."""
    for answers in questions:
        vote(answers)


def each_distinct_once(questions: Sequence[Question]) -> None:
    """Every distinct string parsed once by math-verify, and verified against one answer of each class."""
    parsed: dict[str, list[object]] = {}
    for answers in questions:
        classes: list[list[object]] = []
        for answer in dict.fromkeys(answer for answer in answers if answer is not None):
            if answer not in parsed:
                parsed[answer] = parse(f"${answer}$")
            if not any(verify(one, parsed[answer]) for one in classes):
                classes.append(parsed[answer])


def pairwise(questions: Sequence[Question]) -> None:
    """Every answer parsed by math-verify, every pair of a question's answers verified."""
    for answers in questions:
        parsed = [parse(f"${answer}$") for answer in answers if answer is not None]
        for one, other in itertools.combinations(parsed, 2):
            verify(one, other)


def main(
    answers: Annotated[Path, typer.Option(help="folder of answer files")] = Path("../shared/data/votes"),
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path, typer.Option()] = RESULTS / "voting.json",
) -> None:
    """Measure, print and write the times."""
    logging.disable(logging.WARNING)  # math-verify's, for every answer that it cannot compare
    results: dict[str, object] = {"environment": environment(), "repeats": repeats}
    lines = []
    for benchmark, every in (("aime2024", 1), ("math500", 10)):
        files = sorted(answers.glob(f"{benchmark}_*.jsonl"))
        if not files:
            print(f"voting: no {benchmark}_*.jsonl in {answers}; give a folder with --answers")
            return
        questions = [json.loads(line)["answers"] for file in files for line in file.open(encoding="utf-8")]
        times: dict[str, list[float]] = {"cold": [], "warm": [], "each distinct once": [], "pairwise": []}
        steps: dict[str, list[float]] = {"cold": [], "warm": []}
        for repeat in range(repeats):
            rng = generator(repeat, benchmark)
            forget()
            times["cold"].append(seconds(ours, questions) / len(questions))
            times["warm"].append(seconds(ours, questions) / len(questions))
            times["each distinct once"].append(seconds(each_distinct_once, questions) / len(questions))
            times["pairwise"].append(seconds(pairwise, questions[::every]) / len(questions[::every]))
            step = [questions[i][: STEP[1]] for i in rng.choice(len(questions), STEP[0], replace=False)]
            forget()
            steps["cold"].append(seconds(ours, step))
            steps["warm"].append(seconds(ours, step))
        medians = {name: statistics.median(values) for name, values in times.items()}
        results[benchmark] = {
            "questions": len(questions),
            "answers": sum(map(len, questions)),
            "seconds_per_question": times,
            "seconds_per_step": steps,
        }
        lines.append(f"{benchmark}: {len(questions)} questions, {sum(map(len, questions)):,} answers")
        for name, values in times.items():
            ratio = f"{medians[name] / medians['cold']:7,.0f} x ours, cold" if name not in ("cold", "warm") else ""
            lines.append(
                f"  {name if ratio else 'ours, ' + name:<20} median {1000 * medians[name]:10.3f} ms a question   "
                f"range {1000 * min(values):10.3f} to {1000 * max(values):10.3f}   {ratio}".rstrip()
            )
        lines.append(
            f"  a step of {STEP[0]} questions x {STEP[1]} answers: "
            f"{statistics.median(steps['cold']):.3f} s cold, {statistics.median(steps['warm']):.4f} s warm"
        )
    text = "\n".join(lines)
    print(text)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
