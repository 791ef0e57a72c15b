"""Voting on real sampled answers beside math-verify.

    python -m bench.voting [--answers ../shared/data/votes] [--repeats 5]

`--answers` is a folder of files as `ttrl votes` reads them, named aime2024_*.jsonl and math500_*.jsonl. Peers:

- each distinct string once: parse every distinct string once with math-verify (over all questions), then verify it
  against one answer of each class of its question: the sensible alternative;
- pairwise: parse every answer, verify every pair of a question's answers.

Ours is timed cold (empty cache, worker not yet started) and warm, on all questions. A peer on all of them would take
minutes: it gets some, drawn at random and the same of every file (so that strings repeat as often as in all of them);
ours is timed on these as well, with an empty cache, and the ratio is between the two. There its worker is running
before the clock does, as math-verify is loaded for the peers.
"""

from __future__ import annotations

import itertools
import json
import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from math_verify import parse, verify

from bench.harness import RESULTS, Contestant, Run, measure, spread, table, timed, write
from ttrl_repro.answers.canonical import forget
from ttrl_repro.answers.guard import GUARD
from ttrl_repro.progress import Progress
from ttrl_repro.seeds import generator
from ttrl_repro.votes import vote

STEP = (32, 64)  # questions and answers of the step that is timed
# Questions of each file that a peer gets.
SOME = {
    "aime2024": {"each distinct once": 10, "pairwise": 4},
    "math500": {"each distinct once": 100, "pairwise": 15},
}

Question = Sequence[str | None]
Start = Literal["cold", "loaded", "warm"]  # nothing is there; the worker is; every answer was seen before


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


PEERS = {"each distinct once": each_distinct_once, "pairwise": pairwise}


def contestant(work: Callable[[Sequence[Question]], None], questions: Sequence[Question], start: Start) -> Contestant:
    """The work as a contestant; the amount is questions."""

    def turn(_: int) -> Run:
        if start == "warm":
            work(questions)  # the turn before may have been another's
        else:
            forget()
        if start == "loaded":
            GUARD.read("1")
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


def drawn(files: Sequence[Sequence[Question]], count: int, benchmark: str) -> list[Question]:
    """`count` questions of every file, the same of each (files list them in one order)."""
    positions = generator("bench", benchmark).permutation(min(map(len, files)))[:count]
    return [file[i] for file in files for i in positions]


def one_benchmark(
    benchmark: str, files: Sequence[Sequence[Question]], some: Mapping[str, int], repeats: int, progress: Progress
) -> tuple[list[str], dict[str, Any]]:
    """The lines and the numbers of one benchmark."""
    questions = [question for file in files for question in file]
    given = {peer: drawn(files, count, benchmark) for peer, count in some.items()}
    measured = measure(
        {
            "ours, cold": contestant(ours, questions, "cold"),
            "ours, warm": contestant(ours, questions, "warm"),
            **{peer: contestant(PEERS[peer], asked, "loaded") for peer, asked in given.items()},
            **{f"ours for {peer}": contestant(ours, asked, "loaded") for peer, asked in given.items()},
            "a step, cold": steps(questions, True, benchmark),
            "a step, warm": steps(questions, False, benchmark),
        },
        repeats,
        progress,
        benchmark,
        warm_up=False,
    )

    def row(name: str, asked: Sequence[Question], *more: str) -> list[str]:
        return [name, f"{len(asked):,}", spread([1000 * s for s in measured.seconds(name)], 3), *more]

    rows = [row("ours, cold", questions, "", ""), row("ours, warm", questions, "", "")]
    for peer, asked in given.items():
        mine = f"ours for {peer}"
        same = spread([1000 * s for s in measured.seconds(mine)], 3)
        rows.append(row(peer, asked, same, str(measured.faster(mine, peer))))
    lines = [
        f"{benchmark}: {len(questions)} questions, {sum(map(len, questions)):,} answers",
        *table(["", "questions", "ms a question", "ours on the same", "times faster"], rows),
        f"a step of {STEP[0]} questions x {STEP[1]} answers: "
        f"{statistics.median(measured.seconds('a step, cold')):.3f} s cold, "
        f"{statistics.median(measured.seconds('a step, warm')):.4f} s warm",
    ]
    return lines, {"questions": len(questions), "of each file": dict(some), "runs": measured.to_json()}


def main(
    answers: Annotated[Path, typer.Option(help="folder of answer files")] = Path("../shared/data/votes"),
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path, typer.Option(help="folder of the results")] = RESULTS,
) -> None:
    """Measure, print and write the times."""
    logging.disable(logging.WARNING)  # math-verify's, for every answer that it cannot compare
    files = {benchmark: sorted(answers.glob(f"{benchmark}_*.jsonl")) for benchmark in SOME}
    missing = [benchmark for benchmark, found in files.items() if not found]
    if missing:
        print(f"voting: left out, no {missing[0]}_*.jsonl in {answers}; give a folder of answers with --answers")
        return
    lines: list[str] = []
    data: dict[str, Any] = {}
    with Progress() as progress:
        for benchmark, some in SOME.items():
            asked = [
                [json.loads(line)["answers"] for line in file.read_text(encoding="utf-8").splitlines()]
                for file in files[benchmark]
            ]
            block, data[benchmark] = one_benchmark(benchmark, asked, some, repeats, progress)
            lines += [*([""] if lines else []), *block]
    write("voting", lines, data, repeats, out)


if __name__ == "__main__":
    typer.run(main)
