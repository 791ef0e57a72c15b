"""Evaluation of a model on a task: the project's beside `model.generate` with a regular expression.

    python -m bench.evaluation [--repeats 5]

mini-s on the 83 questions of mini-83, 16 samples each at temperature 0.6 and top-p 0.95: sampling, reading the answers
and grading them. The peer samples in batches of the best size, takes what stands in the last box, and compares strings,
which is the cheapest grading there is; the project's recognises equal answers that are written differently.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.harness import RESULTS, measure, spread, table, write
from bench.peers import Generate, best_rows
from bench.stock_trl import answer
from ttrl_repro.answers.canonical import forget
from ttrl_repro.config import Prompt
from ttrl_repro.evaluate import Protocol, evaluate
from ttrl_repro.models import load_model
from ttrl_repro.progress import Progress
from ttrl_repro.prompts import encode_prompts
from ttrl_repro.rollouts import end_of_sequence_ids, make_engine
from ttrl_repro.tasks import load_task

MODEL, TASK = "mini-s", "mini-83"
PROTOCOL = Protocol(temperature=0.6, top_p=0.95, samples=16)
MAX_NEW_TOKENS = 90
BATCHES = (332, 664, 1328)
OURS, PEER = "ttrl eval", "model.generate and strings"


def main(
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path, typer.Option(help="folder of the results")] = RESULTS,
) -> None:
    """Measure, print and write the rates."""
    model, tokenizer = load_model(MODEL)
    task = load_task(TASK)
    prompts = encode_prompts(task.questions, tokenizer, Prompt())
    engine, eos = make_engine("auto", model, tokenizer), end_of_sequence_ids(model, tokenizer)
    # Sorted as the peer generates, so that its answers meet their own true labels.
    questions = sorted(task.questions, key=lambda question: len(prompts[question.id]))
    gold = [question.answer for question in questions for _ in range(PROTOCOL.samples)]

    def ours(repeat: int) -> int:
        forget()  # answers seen in an earlier repeat
        rows = evaluate(engine, tokenizer, task, prompts, PROTOCOL, MAX_NEW_TOKENS, seed=repeat + 1, step=0)
        return len(rows)

    def generate(rows: int) -> Generate:
        listed = [prompts[question.id] for question in questions]
        pad = int(tokenizer.pad_token_id)
        return Generate(
            model, listed, PROTOCOL.samples, eos, pad, MAX_NEW_TOKENS, PROTOCOL.temperature, PROTOCOL.top_p, rows
        )

    with Progress() as progress:
        best = generate(best_rows(BATCHES, generate, progress))

        def peer(_: int) -> int:
            texts = [text for new in best() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
            right = [answer(text) == true for text, true in zip(texts, gold, strict=True)]
            return len(right)

        measured = measure({OURS: ours, PEER: peer}, repeats, progress, "evaluation")
    lines = [
        f"evaluation of {MODEL} on {TASK}, {len(questions)} questions x {PROTOCOL.samples} samples",
        *table(
            ["", "answers/s", "times faster"],
            [
                [OURS, spread(measured.rates(OURS), 0), str(measured.faster(OURS, PEER))],
                [PEER, spread(measured.rates(PEER), 0), ""],
            ],
        ),
        f"model.generate at its best batch of {', '.join(map(str, BATCHES))} rows: {best.rows}",
    ]
    write("evaluation", lines, {"generate_rows": best.rows, "runs": measured.to_json()}, repeats, out)


if __name__ == "__main__":
    typer.run(main)
