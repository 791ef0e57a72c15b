"""What the command line prints: the table of a run, and of a single evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from ttrl_repro.checkpoints import kept_weights
from ttrl_repro.config import Experiment
from ttrl_repro.records import Record, Row, read_eval, read_jsonl
from ttrl_repro.stats import (
    ANSWERS,
    LEVEL,
    QUESTIONS,
    Estimate,
    answers_interval,
    avg_at_k,
    bare,
    maj_at_k,
    pass_at_k,
    questions_interval,
)
from ttrl_repro.summary import Line, codes_by_protocol, main_table, mean_majority_ratio
from ttrl_repro.watch import WATCHED, alarms, checkpoint

MARKS = {ANSWERS: "a", QUESTIONS: "q"}
WIDTH = 126  # for output that is no terminal


def console() -> Console:
    """Standard output; as wide as the terminal, or WIDTH."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=WIDTH)


def cell(estimate: Estimate, note: str = "") -> str:
    """Value and interval, marked with the interval's population (if the estimate has one)."""
    if estimate.population is None:
        return f"{estimate.value:.3f}{note}"
    interval = rf"\[{estimate.low:.3f}, {estimate.high:.3f}]{MARKS[estimate.population]}"
    return f"{estimate.value:.3f} {interval}{note}"


def reading(line: Line, first_label_accuracy: float | None = None) -> str:
    """What training did to avg@k, by intervals over resampled answers (so: on these questions, these weights).

    `first_label_accuracy`: of the labels that the first step taught, another majority vote of the base.
    """
    final = line.final_avg
    votes = max(line.base_best_maj.high, first_label_accuracy or 0.0)
    if final.low > votes:
        return "gain: avg is above every majority vote of the base"
    if final.low > line.base_best_avg.high:
        return "sharpening: avg is above the base's at its best temperature, not above its majority vote"
    if final.low > line.base_avg.high:
        return "sharpening: avg is above the base's, not above the base's at its best temperature"
    if final.high < line.base_avg.low:
        return "loss: avg is below the base's"
    return "no difference that these intervals show"


def print_report(folder: Path) -> None:
    """Print a run's main table (or, without true labels, its label-free metrics) and the record's paths."""
    out = console()
    record = Record.reopen(folder)
    experiment, manifest = record.experiment(), record.manifest
    metrics = read_jsonl(folder / "metrics.jsonl")
    rows = read_eval(folder)
    settings = experiment.evaluate
    out.print(
        f"{manifest['name']}: {experiment.model} on {experiment.task}, reward {experiment.reward.label()}, "
        f"{manifest['steps_done']} of {experiment.train.steps} steps, {manifest['state']}"
        f"{'; stopped early by watch.stop' if manifest.get('stopped_early') else ''}"
    )
    task = manifest["task"]["name"]
    lines = main_table(rows, task, manifest["steps_done"], settings.temperature, settings.k)
    if lines:
        out.print(_main_table(lines, settings.k, settings.votes))
        out.print(
            f"{LEVEL:.0%} intervals. a: resampled answers on these questions. "
            f"q: other questions of the same kind (Wilson).\n"
            f"T={settings.temperature:g}, top-p {settings.top_p:g}; best T among "
            f"{', '.join(f'{t:g}' for t in settings.base_temperatures)}, chosen on the same samples. "
            f"Checkpoint: {manifest['checkpoint_rule']}.",
            highlight=False,
        )
        for line in lines:
            first = metrics[0].get("label_accuracy") if metrics and (line.task, line.split) == (task, "train") else None
            out.print(f"{line.task} {line.split}: {reading(line, first)}", highlight=False)
    if metrics:
        out.print(_trajectory(metrics))
    for text in watch_lines(folder, experiment, metrics, rows) if metrics and rows else []:
        out.print(text, highlight=False, soft_wrap=True)
    cost = manifest["cost"]
    evaluated = sum(row["tokens"] for row in rows)
    peak = f"; peak memory {cost['peak_memory_bytes'] / 1e9:.2f} GB" if "peak_memory_bytes" in cost else ""
    out.print(
        f"cost: {cost['tokens_sampled']:,} tokens sampled, {cost['tokens_trained']:,} trained on, "
        f"{cost['flops']:.2e} FLOPs, {cost['seconds']:.0f} s in steps; "
        f"{evaluated:,} tokens sampled for evaluation{peak}",
        highlight=False,
        soft_wrap=True,
    )
    out.print(f"record: {folder}", highlight=False, soft_wrap=True)
    if (folder / "predictions.jsonl").is_file():
        out.print(f"predictions: {folder / 'predictions.jsonl'}", highlight=False, soft_wrap=True)


def watch_lines(folder: Path, experiment: Experiment, metrics: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """The alarms of a run, and what the label-free checkpoint rule picks: its avg@k beside the last one's.

    `metrics`: rows of metrics.jsonl; `rows`: of the evaluations, which include the base's.
    """
    settings, watch = experiment.evaluate, experiment.watch
    lines = [f"alarm, step {alarm.step}: {alarm.reason}" for alarm in alarms(metrics, watch)]
    steps = sorted({row["step"] for row in rows})
    choice, last = checkpoint(metrics, steps, watch), steps[-1]
    missing = ", ".join(name for name in WATCHED if name not in metrics[0])
    note = f"; this record has no {missing}" if missing else ""
    if choice.alarm is None:
        return [*lines, f"label-free checkpoint rule: step {last}, the last evaluated (no alarm{note})"]
    picked = f"step {choice.step}{', the base' if choice.step == 0 else ''}"
    seen = f"the alarm's sign first showed (step {choice.alarm.since}{note})"
    lines.append(f"label-free checkpoint rule: {picked}, the last evaluated before {seen}")
    codes = codes_by_protocol(rows)

    def avg(task: str, split: str, step: int) -> str:
        codes_QN: np.ndarray = codes[task, split, step, settings.temperature][:, : settings.k]
        return f"{cell(answers_interval(avg_at_k, codes_QN))} at step {step}"

    for task, split in dict.fromkeys((task, split) for task, split, _, _ in codes):
        both = " against ".join(avg(task, split, step) for step in dict.fromkeys((choice.step, last)))
        lines.append(f"  {task} {split}: avg@{settings.k} {both}")
    weights = kept_weights(folder / "checkpoints", choice.step)
    return [*lines, f"  weights: {weights}"] if weights.is_dir() else lines


def _main_table(lines: list[Line], k: int, votes: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for line in lines:
        table.add_column(f"{line.task} {line.split}\n{line.questions} questions", no_wrap=True)
    measures: list[tuple[str, Callable[[Line], str]]] = [
        ("base greedy", lambda line: cell(line.base_greedy)),
        (f"base avg@{k}", lambda line: cell(line.base_avg)),
        (f"base avg@{k}, best T", lambda line: cell(line.base_best_avg, f" (T={line.best_avg_temperature:g})")),
        (f"base maj@{votes}", lambda line: cell(line.base_maj)),
        (
            f"base maj@{votes}, best T",
            lambda line: cell(line.base_best_maj, f" (T={line.best_maj_temperature:g})"),
        ),
        ("trained greedy", lambda line: cell(line.final_greedy)),
        (f"trained avg@{k}", lambda line: cell(line.final_avg)),
        (f"trained maj@{lines[0].final_samples}", lambda line: cell(line.final_maj)),
    ]
    for name, value in measures:
        table.add_row(name, *(value(line) for line in lines))
    return table


def _trajectory(metrics: Sequence[Row]) -> Table:
    """First and last step of the training metrics (those that need true labels only where there are any)."""
    names = [
        name
        for name in (
            "label_accuracy",
            "reward_accuracy",
            "advantage_accuracy",
            "ground_truth_ratio",
            "majority_ratio",
            "entropy",
            "abstention_rate",
            "mean_tokens",
            "top_answer_share",
            "distinct_answers",
        )
        if name in metrics[0]
    ]
    first, last = metrics[0], metrics[-1]
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("in training", f"step {first['step']}", f"step {last['step']}"):
        table.add_column(heading)
    for name in names:
        table.add_row(name, *(f"{row[name]:.3f}" if name in row else "-" for row in (first, last)))
    return table


def print_evaluation(rows: Sequence[Row], title: str) -> None:
    """Print greedy pass@1, avg@k, maj@k and pass@k of one evaluation; without true labels, the vote's."""
    out = console()
    out.print(title, highlight=False)
    codes = codes_by_protocol(rows)
    for (_, _, _, temperature), codes_QN in codes.items():
        n = codes_QN.shape[1]
        if temperature == 0:
            measures = [("greedy", questions_interval(codes_QN[:, 0] == 0))]
        else:
            measures = [
                (f"avg@{n}", answers_interval(avg_at_k, codes_QN)),
                (f"maj@{n}", answers_interval(maj_at_k, codes_QN)),
                (f"pass@{n}", bare(pass_at_k(codes_QN, n))),
            ]
        for name, estimate in measures:
            out.print(f"  {name:10} {cell(estimate)}", highlight=False)
    sampled = [row for row in rows if row["protocol"] == "sampled"] or list(rows)
    out.print(f"  abstention {sum(row['key'] is None for row in sampled) / len(sampled):.3f}", highlight=False)
    out.print(f"  majority ratio {mean_majority_ratio(sampled):.3f}", highlight=False)
    if codes:
        out.print(f"{LEVEL:.0%} intervals. a: resampled answers on these questions. q: other questions.")
