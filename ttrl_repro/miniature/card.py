"""The model card of a base: its recipe, and what it does on the laboratory's tasks.

Beside a base lie `card.json` (its statistics, kept until weights, tasks or protocol change) and `README.md`
(the same for people). Statistics are of the `train` sets: a base has seen none of their questions, so that
intervals range over other questions of the same kind.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from ttrl_repro.config import Prompt
from ttrl_repro.errors import UserError
from ttrl_repro.evaluate import GREEDY, Protocol, evaluate, refuse_too_long
from ttrl_repro.laboratory import base_hash
from ttrl_repro.miniature.corpus import MAX_COMPLETION
from ttrl_repro.models import bases_folder, load_model
from ttrl_repro.progress import Progress
from ttrl_repro.prompts import encode_prompts
from ttrl_repro.records import write_atomic
from ttrl_repro.rollouts import make_engine
from ttrl_repro.stats import (
    LEVEL,
    Estimate,
    maj_at_k_Q,
    majority_ratio_Q,
    pass_at_k_Q,
    questions_interval,
    questions_mean_interval,
)
from ttrl_repro.summary import codes_by_protocol
from ttrl_repro.tasks import Task, load_task, task_names
from ttrl_repro.tasks.miniature import DEVELOPMENT_DRAWS

VERSION = 1  # of the statistics: raise it when their definition or the grading changes
GREEDY_ACCURACY, MAJORITY_RATIO, ABSTENTIONS = "greedy", "majority_ratio", "abstentions"


@dataclass(frozen=True)
class CardProtocol:
    """How a base is measured.

    tasks: their names. questions: of each task as many development draws are pooled as hold at least this many.
    k: samples of avg@k; where a protocol draws more, all of them make maj@n, pass@n and the majority ratio.
    """

    tasks: tuple[str, ...]
    questions: int = 150
    protocols: tuple[Protocol, ...] = (GREEDY, Protocol(0.3, 0.95, 16), Protocol(0.6, 0.95, 64), Protocol(1.0, 1.0, 64))
    k: int = 16
    max_new_tokens: int = MAX_COMPLETION
    seed: int = 0

    @classmethod
    def standard(cls) -> CardProtocol:
        """That of every card: all tasks but those of single figures."""
        return cls(tuple(name for name in task_names() if name.startswith(("mini-", "transfer-"))))


@dataclass(frozen=True)
class Statistic:
    """One number of a base on `questions` questions: the first `draws` development draws of a task's train set.

    measure: `greedy`, `avg@K`, `maj@N`, `pass@N`, `majority_ratio`, `abstentions`. temperature: 0 for greedy.
    """

    task: str
    draws: int
    questions: int
    measure: str
    temperature: float
    estimate: Estimate


@dataclass(frozen=True)
class Card:
    """What was measured of one base. `weights`, `measured`: hashes of the base, and of tasks and protocol."""

    weights: str
    measured: str
    statistics: tuple[Statistic, ...]

    def to_json(self) -> str:
        """As text that `from_json` reads; the same for the same numbers."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Card:
        """What `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        found = json.loads(text)
        statistics = [
            Statistic(**{**row, "estimate": Estimate(**row["estimate"])}) for row in found.pop("statistics")
        ]  # fmt: skip
        return cls(**found, statistics=tuple(statistics))


@cache  # drawing takes a second, and every base is asked the same
def pooled(name: str, questions: int) -> tuple[Task, int]:
    """Draws DEVELOPMENT_DRAWS, ... of a task's train set as one, until it holds `questions` questions; how many draws.

    The study's own draws stay unseen: looking at a base does not spend their questions.
    """
    tasks = [load_task(name, DEVELOPMENT_DRAWS)]
    while sum(len(task.questions) for task in tasks) < questions:
        tasks.append(load_task(name, DEVELOPMENT_DRAWS + len(tasks)))
    return Task(name, "train", tuple(question for task in tasks for question in task.questions)), len(tasks)


def measured_hash(protocol: CardProtocol) -> str:
    """A hash of what a base is measured by: questions, labels and the protocol."""
    tasks = []
    for name in protocol.tasks:
        task, _ = pooled(name, protocol.questions)
        tasks.append([[q.id, q.problem, q.answer] for q in task.questions])
    return hashlib.sha256(json.dumps([VERSION, asdict(protocol), tasks]).encode()).hexdigest()[:16]


def statistics_of(codes_QN: np.ndarray, temperature: float, k: int) -> dict[str, Estimate]:
    """Statistics by measure from one protocol's codes (see `stats`), with intervals over questions."""
    n = codes_QN.shape[1]
    if temperature == 0:
        return {
            GREEDY_ACCURACY: questions_interval(codes_QN[:, 0] == 0),
            ABSTENTIONS: questions_interval(codes_QN[:, 0] < 0),
        }
    values_Q = {f"avg@{k}": (codes_QN[:, :k] == 0).mean(axis=1)}
    if n > k:
        values_Q |= {
            f"maj@{n}": maj_at_k_Q(codes_QN),
            f"pass@{n}": pass_at_k_Q(codes_QN, n),
            MAJORITY_RATIO: majority_ratio_Q(codes_QN),
        }
    values_Q[ABSTENTIONS] = (codes_QN < 0).mean(axis=1)
    return {measure: questions_mean_interval(values) for measure, values in values_Q.items()}


def measure(folder: Path, protocol: CardProtocol, progress: Progress) -> Card:
    """Evaluate the base in `folder`."""
    loaded, tokenizer = load_model(str(folder))
    engine = make_engine("auto", loaded, tokenizer)
    tasks = [pooled(name, protocol.questions) for name in protocol.tasks]
    samples = sum(len(task.questions) for task, _ in tasks) * sum(each.samples for each in protocol.protocols)
    found: list[Statistic] = []
    progress.start(f"evaluating {folder.name.strip('.')}", samples, unit="sample")
    for task, draws in tasks:
        prompts = encode_prompts(task.questions, tokenizer, Prompt())
        refuse_too_long("max_positions", protocol.max_new_tokens, loaded, prompts)
        for each in protocol.protocols:
            rows = evaluate(
                engine,
                tokenizer,
                task,
                prompts,
                each,
                protocol.max_new_tokens,
                protocol.seed,
                step=0,
                report=lambda n: progress.advance(amount=n),
            )
            (codes_QN,) = codes_by_protocol(rows).values()
            found += [
                Statistic(task.name, draws, len(task.questions), name, each.temperature, estimate)
                for name, estimate in statistics_of(codes_QN, each.temperature, protocol.k).items()
            ]
    progress.finish()
    return Card(base_hash(folder), measured_hash(protocol), tuple(found))


@contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Alone among the processes that write in `folder`; `say` tells if that takes waiting.

    Raises UserError if no lock can be written in `bases_folder()`.
    """
    locks = bases_folder() / ".locks"
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    try:
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"waiting for another process that works on {folder}")
            lock.acquire()
    except OSError as error:  # a read-only file system's is no PermissionError
        raise UserError(
            f"{locks}: cannot be written ({error.strerror or error}); set TTRL_BASES to a folder of yours"
        ) from error
    try:
        yield
    finally:
        lock.release()


def places(folder: Path) -> list[Path]:
    """Where the card of the base in `folder` may lie: there, or for a folder that is not ours to write elsewhere."""
    return [folder, bases_folder() / "cards" / folder.name]


def kept_card(folder: Path, protocol: CardProtocol) -> Card | None:
    """The card of an earlier evaluation, if base, tasks and protocol are still the same.

    Raises UserError for a card.json that no program of this project wrote.
    """
    for path in (place / "card.json" for place in places(folder)):
        if not path.is_file():
            continue
        try:
            card = Card.from_json(path.read_text())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: is not the card of a base ({error}); remove it") from error
        if (card.weights, card.measured) == (base_hash(folder), measured_hash(protocol)):
            return card
    return None


def card_of(folder: Path, protocol: CardProtocol, progress: Progress, again: bool = False) -> Card:
    """The card of the base in `folder`: the one that is kept, or (or if `again`) a new one, which is then kept."""
    with locked(folder, progress.say):
        card = None if again else kept_card(folder, protocol)
        if card is None:
            card = measure(folder, protocol, progress)
            own, elsewhere = places(folder)
            place = own if os.access(own, os.W_OK) else elsewhere
            place.mkdir(parents=True, exist_ok=True)
            facts = json.loads((folder / "recipe.json").read_text())
            write_atomic(place / "README.md", readme(facts, card, protocol))
            write_atomic(place / "card.json", card.to_json())  # last: it says that all is there
    return card


README = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# {name}, base seed {seed}

A Qwen3-architecture transformer of {parameters:,} parameters, trained from scratch on generated arithmetic
({description}). It knows nothing but questions such as those in the last table.

## What it was trained on
{documents:,} documents, {tokens:,} tokens, {updates:,} updates, once over; final loss {final_loss:.3f} (mean of the
last 5 % of the updates). All tasks draw from expressions that are held out of every corpus.

| dial | value |
|---|---|
{dials}

## What it does
Greedy answers are right for {answers}.

{statistics}

{level:.0%} intervals over questions: other questions of the same kind, these weights (Wilson for greedy, else a
bootstrap). Bold: the best temperature for avg@{k}, chosen on these very answers. Abstentions: answers that cannot be
read. T {sampling}; at most {max_new_tokens} new tokens. These draws chose the laboratory's dials; those below
{development} are the study's, and stay unseen here.

| task | questions | the first |
|---|---|---|
{questions}

Made by `ttrl pretrain {name} --seed {seed}`, measured by `ttrl bases`; everything that went in is in `recipe.json`,
the numbers are in `card.json`.
"""


def readme(facts: dict[str, Any], card: Card, protocol: CardProtocol) -> str:
    """The card as markdown. `facts`: what `recipe.json` holds."""
    recipe, summary = facts["recipe"], facts["summary"]
    tasks = {statistic.task: statistic for statistic in card.statistics}
    return README.format(
        name=recipe["name"],
        seed=summary["base_seed"],
        description=recipe["description"],
        dials="\n".join(
            f"| {name} | {value} |"
            for part in ("corpus", "architecture", "optimisation")
            for name, value in dials(recipe[part], f"{part}: ")
        ),
        answers=", ".join(
            f"{one.estimate.value:.0%} of {one.task}" for one in card.statistics if one.measure == GREEDY_ACCURACY
        ),
        statistics="\n".join(statistics_table(card.statistics, protocol)),
        level=LEVEL,
        k=protocol.k,
        development=DEVELOPMENT_DRAWS,
        sampling=", ".join(
            f"{each.temperature:g}: {each.samples} samples, top-p {each.top_p:g}"
            for each in protocol.protocols
            if each.temperature
        ),
        max_new_tokens=protocol.max_new_tokens,
        questions="\n".join(map(_task_row, tasks.values())),
        **{key: summary[key] for key in ("parameters", "documents", "tokens", "updates", "final_loss")},
    )


def _task_row(one: Statistic) -> str:
    """Which questions of a task were asked."""
    first, last = DEVELOPMENT_DRAWS, DEVELOPMENT_DRAWS + one.draws - 1
    draws = f"draws {first} to {last}" if one.draws > 1 else f"draw {first}"
    return f"| {one.task} | {one.questions}: {draws} | `{load_task(one.task, first).questions[0].problem}` |"


def dials(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Every dial of a part of a recipe, whatever its dials are: name and value, in the recipe's order."""

    def text(value: object) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{name}: {text(inner)}" for name, inner in value.items())
        if isinstance(value, list):
            return ", ".join(map(text, value))
        if isinstance(value, int) and not isinstance(value, bool):
            return f"{value:,}"
        return f"{value:g}" if isinstance(value, float) else str(value)

    return [(f"{prefix}{name.replace('_', ' ')}", text(value)) for name, value in values.items()]


def best_temperature(statistics: Sequence[Statistic], task: str, k: int) -> float:
    """The temperature with the highest avg@k on a task (of equal ones the lowest)."""
    candidates = [s for s in statistics if (s.task, s.measure) == (task, f"avg@{k}")]
    return max(candidates, key=lambda s: (s.estimate.value, -s.temperature)).temperature


def written(estimate: Estimate) -> str:
    """Value and interval."""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def statistics_table(statistics: Sequence[Statistic], protocol: CardProtocol) -> list[str]:
    """Markdown, a row per task and temperature."""
    n = max(each.samples for each in protocol.protocols)
    columns = [f"avg@{protocol.k}", f"maj@{n}", f"pass@{n}", MAJORITY_RATIO, ABSTENTIONS]
    lines = [f"| task | T | {' | '.join(columns).replace('_', ' ')} |", "|---" * (2 + len(columns)) + "|"]
    cells: dict[tuple[str, float], dict[str, str]] = {}
    for one in statistics:
        text = written(one.estimate)
        if one.measure == columns[0] and one.temperature == best_temperature(statistics, one.task, protocol.k):
            text = f"**{text}**"
        # A greedy answer is an average over one sample.
        column = columns[0] if one.measure == GREEDY_ACCURACY else one.measure
        cells.setdefault((one.task, one.temperature), {})[column] = text
    for (task, temperature), row in cells.items():
        at = "greedy" if temperature == 0 else f"{temperature:g}"
        lines.append(f"| {task} | {at} | {' | '.join(row.get(column, '') for column in columns)} |")
    return lines
