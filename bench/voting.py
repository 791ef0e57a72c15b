"""Voting on real sampled answers beside math-verify.

    python -m bench.voting [--answers ../shared/data/votes] [--repeats 5]

`--answers` is a folder of files as `ttrl votes` reads them, named aime2024_*.jsonl and math500_*.jsonl. Peers:

- each distinct string once: parse every distinct string once with math-verify (over all questions), then verify it
  against one answer of each class of its question: the sensible alternative;
- pairwise: parse every answer, verify every pair of a question's answers.

Ours is timed cold (empty cache, worker not yet started) and warm, on all questions. A peer on all of them would take
minutes: it gets every n-th, which are the same questions of every file (so that strings repeat as often as in all of
them), and its times are a question's, too.
"""

from __future__ import annotations

import itertools
import json
import logging
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from math_verify import parse, verify

from bench.harness import RESULTS, Contestant, Run, measure, spread, table, timed, write
from ttrl_repro.answers.canonical import forget
from ttrl_repro.progress import Progress
from ttrl_repro.seeds import generator
from ttrl_repro.votes import vote

STEP = (32, 64)  # questions and answers of the step that is timed
# Every n-th question for the peers, by benchmark.
EVERY = {
    "aime2024": {"each distinct once": 5, "pairwise": 10},
    "math500": {"each distinct once": 10, "pairwise": 50},
}
OURS = "ours, cold"

Question = Sequence[str | None]


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


def contestant(work: Callable[[Sequence[Question]], None], questions: Sequence[Question], cold: bool) -> Contestant:
    """The work as a contestant; the amount is questions."""

    def turn(_: int) -> Run:
        if cold:
            forget()
        else:
            work(questions)  # the turn before may have been another's
        return timed(lambda _: (work(questions), len(questions))[1], 0)

    return turn


def steps(questions: Sequence[Question], cold: bool, benchmark: str) -> Contestant:
    """A step's votes: STEP questions and answers, drawn anew for each repeat."""

    def turn(repeat: int) -> Run:
        rng = generator(repeat + 1, benchmark)
        drawn = [questions[i][: STEP[1]] for i in rng.choice(len(questions), STEP[0], replace=False)]
        forget()
        if not cold:
            ours(drawn)
        return timed(lambda _: (ours(drawn), 1)[1], 0)

    return turn


def main(
    answers: Annotated[Path, typer.Option(help="folder of answer files")] = Path("../shared/data/votes"),
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path, typer.Option(help="folder of the results")] = RESULTS,
) -> None:
    """Measure, print and write the times."""
    logging.disable(logging.WARNING)  # math-verify's, for every answer that it cannot compare
    files = {benchmark: sorted(answers.glob(f"{benchmark}_*.jsonl")) for benchmark in EVERY}
    missing = [benchmark for benchmark, found in files.items() if not found]
    if missing:
        print(f"voting: left out, no {missing[0]}_*.jsonl in {answers}; give a folder of answers with --answers")
        return
    lines: list[str] = []
    data: dict[str, Any] = {}
    with Progress() as progress:
        for benchmark, every in EVERY.items():
            lines_of = (line for file in files[benchmark] for line in file.open(encoding="utf-8"))
            questions: list[Question] = [json.loads(line)["answers"] for line in lines_of]
            given = {OURS: questions, "ours, warm": questions, **{peer: questions[::n] for peer, n in every.items()}}
            measured = measure(
                {
                    OURS: contestant(ours, given[OURS], cold=True),
                    "ours, warm": contestant(ours, given["ours, warm"], cold=False),
                    "each distinct once": contestant(each_distinct_once, given["each distinct once"], cold=True),
                    "pairwise": contestant(pairwise, given["pairwise"], cold=True),
                    "a step, cold": steps(questions, True, benchmark),
                    "a step, warm": steps(questions, False, benchmark),
                },
                repeats,
                progress,
                benchmark,
                warm_up=False,
            )
            data[benchmark] = {"questions": len(questions), "every": every, "runs": measured.to_json()}
            rows = [
                [
                    name,
                    f"{len(asked):,}",
                    spread([1000 * seconds for seconds in measured.seconds(name)], 3),
                    str(measured.faster(OURS, name)) if name in every else "",
                ]
                for name, asked in given.items()
            ]
            lines += [
                *([""] if lines else []),
                f"{benchmark}: {len(questions)} questions, {sum(map(len, questions)):,} answers",
                *table(["", "questions", "ms a question", f"{OURS}: times faster"], rows),
                f"a step of {STEP[0]} questions x {STEP[1]} answers: "
                f"{statistics.median(measured.seconds('a step, cold')):.3f} s cold, "
                f"{statistics.median(measured.seconds('a step, warm')):.4f} s warm",
            ]
    write("voting", lines, data, repeats, out)


if __name__ == "__main__":
    typer.run(main)
