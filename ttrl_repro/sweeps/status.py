"""Plan and status of a sweep, as text. Imports no torch and no Optuna."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ttrl_repro.config import Experiment
from ttrl_repro.errors import UserError
from ttrl_repro.records import Record
from ttrl_repro.sweeps.files import Cell, Choice, SweepFile
from ttrl_repro.sweeps.store import FAILED, FINISHED, PRUNED, RUNNING, WAITING, CellRow
from ttrl_repro.tasks import load_task

GUESSES = 50  # cells of a search that stand for those that it will propose
SHOWN = 20  # failed and running cells that are listed


@dataclass(frozen=True)
class Measured:
    """What finished runs of one model took: seconds and bytes a sampled answer, and seconds beside the steps."""

    seconds_a_sample: float
    seconds_beside: float
    bytes_a_sample: float
    runs: int


def measured_runs(folders: Sequence[Path]) -> dict[str, Measured]:
    """By model, medians over the finished records in these folders, at any depth. Resumed ones are left out."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for path in (path for folder in folders for path in sorted(folder.rglob("manifest.json"))):
        try:
            record = Record.reopen(path.parent)
        except UserError:  # of another program, or being written
            continue
        manifest = record.manifest
        if manifest["state"] != "finished" or manifest.get("resumed") or not manifest["steps_done"]:
            continue
        samples = samples_of(record.experiment(), manifest["task"]["questions"], manifest["steps_done"])
        seconds, beside = record.seconds()
        size = sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
        found.setdefault(manifest["model"]["name"], []).append((seconds / samples, max(beside, 0.0), size / samples))
    measured = {}
    for model, took in found.items():
        a_sample, beside, disk = (median(row[i] for row in took) for i in range(3))
        measured[model] = Measured(a_sample, beside, disk, len(took))
    return measured


def samples_of(experiment: Experiment, questions: int, steps: int) -> int:
    """Answers sampled for the votes of a run."""
    return steps * min(experiment.train.questions_per_step or questions, questions) * experiment.rollout.votes


def plan(sweep: SweepFile, records: Sequence[Path]) -> str:
    """What a sweep will take: cells, minutes and gigabytes by model and task, from finished runs of the same model.

    Raises UserError for a cell that is no valid experiment.
    """
    size, measured = sweep.size(), measured_runs(records)
    cells = list(sweep.cells())[:size] if sweep.method == "grid" else list(_guesses(sweep))
    if not cells:
        raise UserError(f"{sweep.path}: none of {GUESSES} cells drawn from its parameters is a valid experiment")
    weight = 1.0 if sweep.method == "grid" or size is None else size / len(cells)
    rows: dict[tuple[str, str], list[float]] = {}
    unmeasured = Counter[str]()
    for cell in cells:
        experiment = cell.experiment
        row = rows.setdefault((experiment.model, experiment.task), [0.0, 0.0, 0.0])
        row[0] += weight
        known = measured.get(experiment.model)
        if known is None:
            unmeasured[experiment.model] += 1
            continue
        questions = len(load_task(experiment.task, experiment.seeds.draw).questions)
        samples = samples_of(experiment, questions, experiment.train.steps)
        row[1] += weight * (samples * known.seconds_a_sample + known.seconds_beside) / 60
        row[2] += weight * samples * known.bytes_a_sample / 1e9
    lines = [f"{sweep.name}: {sweep.method}, {len(cells) if sweep.method == 'grid' else size} cells"]
    lines.append("| base | task | cells | minutes | GB |")
    lines.append("|---|---|---|---|---|")
    for (model, task), (count, minutes, gigabytes) in rows.items():
        took = f"{minutes:.1f} | {gigabytes:.3f}" if model in measured else "not measured | not measured"
        lines.append(f"| {model} | {task} | {count:.0f} | {took} |")
    total = [sum(column) for column in zip(*rows.values(), strict=True)]
    note = " without what was not measured" if unmeasured else ""
    lines.append(f"| all | | {total[0]:.0f} | {total[1]:.1f}{note} | {total[2]:.3f}{note} |")
    runs = ", ".join(f"{m.runs} of {model}" for model, m in measured.items() if any(model == k[0] for k in rows))
    lines.append(f"Minutes of one agent, by answers to sample, from finished runs ({runs or 'none found'}).")
    if unmeasured:
        lines.append(
            f"Not measured: {', '.join(unmeasured)}. Run one cell first (`ttrl sweep agent FILE --cells 1`), or give "
            f"records of such runs with --records."
        )
    return "\n".join(lines) + "\n"


def _guesses(sweep: SweepFile) -> Iterator[Cell]:
    """Valid cells drawn uniformly from a search's space (by logarithm where the space is)."""
    generator = random.Random(0)
    for _ in range(GUESSES):
        params = {}
        for name, space in sweep.parameters.items():
            if isinstance(space, Choice):
                params[name] = generator.choice(space.values)
            elif space.integer:
                params[name] = generator.randint(int(space.low), int(space.high))
            elif space.step is not None:
                params[name] = space.low + space.step * generator.randint(
                    0, round((space.high - space.low) / space.step)
                )
            elif space.log:
                params[name] = space.low * (space.high / space.low) ** generator.random()
            else:
                params[name] = generator.uniform(space.low, space.high)
        try:
            yield sweep.cell(params)
        except UserError:
            continue  # a search passes over it, too


def status(
    name: str, rows: Sequence[CellRow], now: float, missing: Sequence[str] = (), to_come: int = 0, verbose: bool = False
) -> str:
    """How far a sweep is: counts, time left, what runs and what failed.

    missing: cells of a grid's file that are not enqueued yet. to_come: these, or the cells that a search will propose.
    """
    counts = Counter(row.state for row in rows)
    alive = [row for row in rows if row.state == RUNNING and row.lease_until >= now]
    dead = [row for row in rows if row.state == RUNNING and row.lease_until < now]
    failed = [row for row in rows if row.state == FAILED]
    parts = [f"{counts[state]} {state}" for state in (FINISHED, PRUNED, RUNNING, WAITING, FAILED) if counts[state]]
    lines = [f"{name}: {len(rows)} cells: {', '.join(parts) or 'none'}"]
    if missing:
        lines.append(f"missing: {len(missing)} cells of the file are not enqueued; the next agent adds them")
    elif to_come:
        lines.append(f"{to_come} cells are to be proposed")
    if dead:
        lines.append(f"{len(dead)} of the running have no agent any more; the next free one takes them over")
    took = [row.seconds for row in rows if row.state == FINISHED]
    left = counts[WAITING] + counts[RUNNING] + to_come
    if left and took:
        seconds = left * sum(took) / len(took) / max(len(alive), 1)
        agents = f"{len(alive)} agents" if len(alive) != 1 else "1 agent"
        lines.append(f"time left: about {seconds / 60:.0f} min with {agents if alive else '1 agent (none runs now)'}")
    lines += _listed("running", [f"{row.cell}, claim {row.token}, {row.owner}" for row in [*alive, *dead]], verbose)
    lines += _listed("failed", [f"{row.cell}: {row.error}" for row in failed], verbose)
    retried = [row for row in rows if row.failures and row.state != FAILED]
    if retried:
        lines.append(f"{len(retried)} cells failed before, and went on or will")
    return "\n".join(lines) + "\n"


def _listed(what: str, lines: Sequence[str], verbose: bool) -> list[str]:
    shown = [f"{what}: {line}" for line in (lines if verbose else lines[:SHOWN])]
    return shown if len(shown) == len(lines) else [*shown, f"... and {len(lines) - SHOWN} more {what} (--verbose)"]


def best(rows: Sequence[CellRow], maximize: bool, limit: int = 10) -> str:
    """The best finished cells with their values and parameters, as lines."""
    done = [(row.value, row) for row in rows if row.state == FINISHED and row.value is not None]
    done.sort(key=lambda pair: pair[0], reverse=maximize)
    return "".join(
        f"{value:.4f}  {' '.join(f'{name}={given}' for name, given in row.params.items())}\n"
        for value, row in done[:limit]
    )
