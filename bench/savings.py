"""What stopping early saves: adaptive voting, and rows without signal left out of the update.

    python -m bench.savings [--steps 40]

Whole trainings of mini-xs on mini-30 (N = 64, G = 32), step by step in turns: with every row of the trained samples and
all votes; without the rows that have no signal (the default); and with adaptive voting at several error bounds. The
seconds are those of all steps. Samples drawn and labels are also replayed on the votes of the full run, where both
rules see the same answers: a label agrees if it is a winner of the full vote, which is what the bound speaks of.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from bench.harness import RESULTS, Measurement, Run, measure, table, write
from bench.ttrl_step import EXPERIMENT, Steps
from bench.worker import Worker
from ttrl_repro.adaptive import SequentialRule
from ttrl_repro.config import Rollout, load_experiment
from ttrl_repro.progress import Progress

MODEL = "mini-xs"
ERRORS = (0.0, 0.01, 0.05)
LAST = 5  # steps whose label accuracy is told
EVERY, DEFAULT = "every row, all votes", "rows with signal, all votes"


def replayed(keys: Sequence[str | None], rule: SequentialRule, at_least: int) -> tuple[int, bool]:
    """Samples that the rule draws of one question's (keys in their order), and whether its leader wins the full vote.

    Where no sample has an answer both have no label, and agree.
    """
    full = Counter(key for key in keys if key is not None)
    for look in (size for size in rule.looks if size >= at_least):
        counts = Counter(key for key in keys[:look] if key is not None)
        if rule.decided(list(counts.values()), look):
            leader = counts.most_common(1)[0][0] if counts else None
            return look, (full[leader] == max(full.values()) if leader is not None else not full)
    raise ValueError(f"{rule} did not stop at its last look")


def total(runs: Sequence[Run], phases: Sequence[str] | None = None) -> float:
    """Seconds of all steps, whole or in some phases."""
    if phases is None:
        return sum(run.seconds for run in runs)
    return sum(run.details["phases"].get(phase, 0.0) for run in runs for phase in phases)


def positions(runs: Sequence[Run], kind: str) -> int:
    """Positions (or samples) of all steps."""
    return sum(run.details["positions"][kind] for run in runs)


def seconds_table(measured: Measurement, questions: int) -> list[str]:
    """Each training's seconds, and what it did in them."""
    everything = measured.runs[EVERY]
    rows = [
        [
            name,
            f"{total(runs):.1f}",
            f"{1 - total(runs) / total(everything):.0%}",
            f"{total(runs, ['sampling']):.1f}",
            f"{total(runs, ['forward', 'backward']):.1f}",
            f"{positions(runs, 'samples') / (len(runs) * questions):.1f}",
            f"{positions(runs, 'training') / positions(everything, 'training'):.0%}",
            f"{statistics.mean(run.details['metrics']['label_accuracy'] for run in runs[-LAST:]):.3f}",
        ]
        for name, runs in measured.runs.items()
    ]
    header = ["", "seconds", "saved", "sampling", "training", "samples a question", "trained", "label accuracy"]
    return table(header, rows)


def replay_table(runs: Sequence[Run], rollout: Rollout) -> tuple[list[str], dict[str, dict[str, float]]]:
    """What each rule would have drawn of a training's votes, and how often its label would have been the same."""
    found: dict[str, dict[str, float]] = {}
    for error in ERRORS:
        rule = SequentialRule(rollout.votes, rollout.adaptive_chunk, error)
        each = [replayed(keys, rule, rollout.trained) for run in runs for keys in run.details["keys"]]
        drawn = statistics.mean(n for n, _ in each)
        found[f"error {error:g}"] = {
            "samples": drawn,
            "saved": 1 - drawn / rollout.votes,
            "agreement": statistics.mean(same for _, same in each),
            "votes": len(each),
        }
    rows = [
        [name, f"{f['samples']:.1f}", f"{f['saved']:.0%}", f"{f['agreement']:.4f}", f"{f['votes']:,}"]
        for name, f in found.items()
    ]
    return table(["", "samples a question", "saved", "labels that agree", "votes"], rows), found


def main(
    steps: Annotated[int, typer.Option(min=2, help="of each training")] = 40,
    model: Annotated[str, typer.Option()] = MODEL,
    out: Annotated[Path, typer.Option(help="folder of the results")] = RESULTS,
) -> None:
    """Measure, print and write."""
    of_model = f"model={model}"
    arms = {
        EVERY: Steps((of_model,), skip=False),
        DEFAULT: Steps((of_model,), keys=True),
        **{f"adaptive, error {error:g}": Steps((of_model, f"rollout.adaptive_error={error}")) for error in ERRORS},
    }
    with Progress() as progress, ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(arm.command())) for name, arm in arms.items()}
        # No turn is left out: the trainings are compared as wholes, and each has its first step.
        measured = measure(workers, steps, progress, "trainings in turns", warm_up=False)
    experiment = load_experiment(EXPERIMENT, [of_model])
    replays, found = replay_table(measured.runs[DEFAULT], experiment.rollout)
    lines = [
        f"{model}, {experiment.task}, {steps} steps, {experiment.rollout.votes} votes, "
        f"{experiment.rollout.trained} trained, without evaluations; one training each, in turns",
        *seconds_table(measured, len(measured.runs[DEFAULT][0].details["keys"])),
        f"(trained: positions of the update; label accuracy: mean of the last {LAST} steps)",
        "",
        f"the rules replayed on the votes of the training with {DEFAULT}",
        *replays,
    ]
    runs = {
        name: [{key: value for key, value in run.items() if key != "keys"} for run in of_one]
        for name, of_one in measured.to_json().items()
    }
    write("savings", lines, {"steps": steps, "replayed": found, "runs": runs}, 1, out)


if __name__ == "__main__":
    typer.run(main)
