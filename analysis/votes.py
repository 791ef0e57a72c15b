"""What a majority vote over k samples is worth as a label, and what stopping it early saves, on sampled answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.table import Table
from scipy import stats as scipy_stats

from analysis.load import rows_of
from analysis.style import COLOURS, save
from ttrl_repro.adaptive import SequentialRule
from ttrl_repro.answers import canonical, canonical_all, graded
from ttrl_repro.errors import UserError
from ttrl_repro.jsonl import read_objects
from ttrl_repro.report import console
from ttrl_repro.seeds import generator
from ttrl_repro.stats import (
    LEVEL,
    MOST_SAMPLES,
    Estimate,
    abstention_rate,
    avg_at_k,
    encode_answers,
    majority_ratio,
    pass_at_k_Q,
    questions_interval,
    questions_mean_interval,
    votes_at_k,
)

NAME = "votes"
MOST_VOTES = 64  # the paper's number of votes
ERRORS = (0.0, 0.01, 0.05)  # of the sequential rules compared
CERTAINTY = 0.95  # of Adaptive-Consistency's rule, as published
CURVES = ["file", "questions", "samples", "measure", "k", "value", "low", "high", "population"]
ADAPTIVE = ["file", "votes", "rule", "chunk", "measure", "value", "low", "high", "population"]


@dataclass(frozen=True)
class Answered:
    """Sampled answers to one question: its codes (N,) as in `stats`, and another grader's verdicts (N,) if given."""

    id: str
    codes_N: np.ndarray
    correct_N: np.ndarray | None


@dataclass(frozen=True)
class AnswerFile:
    """A file of sampled answers. Without true labels (`labelled`) no code is 0."""

    name: str
    questions: tuple[Answered, ...]
    labelled: bool

    @property
    def samples(self) -> int:
        """The fewest samples of a question."""
        return min(len(question.codes_N) for question in self.questions)


def codes_of(answers: Sequence[str | None], gold: str | None) -> np.ndarray:
    """Codes (N,) of one question's answers, as in `stats`; without a gold answer none is 0."""
    gold_key = canonical(gold)
    return encode_answers([graded(canonical_all(answers), gold_key)], [gold_key or ""])[0]  # no key is empty


def read_answers(path: Path) -> AnswerFile:
    """The sampled answers in `path`, one JSON object a line: id, answers, and optionally gold and correct.

    Raises UserError naming line, field and what would be right.
    """
    questions: list[Answered] = []
    given: dict[str, list[int]] = {"gold": [], "correct": []}
    seen: dict[str, int] = {}
    for number, row in read_objects(path, "fields 'id' and 'answers'"):
        where = f"{path}, line {number}"
        identifier, answers, gold, correct = (row.get(name) for name in ("id", "answers", "gold", "correct"))
        if isinstance(identifier, bool) or not isinstance(identifier, str | int):
            raise UserError(f"{where}: field 'id' must be a string or an integer")
        if str(identifier) in seen:
            raise UserError(f"{where}: id {identifier!r} was used before, on line {seen[str(identifier)]}")
        seen[str(identifier)] = number
        if not isinstance(answers, list) or not all(answer is None or isinstance(answer, str) for answer in answers):
            raise UserError(f"{where}: field 'answers' must be a list of strings, null where no answer was given")
        if not 1 <= len(answers) <= MOST_SAMPLES:
            raise UserError(f"{where}: field 'answers' must hold 1 to {MOST_SAMPLES} answers, not {len(answers)}")
        if gold is not None and (not isinstance(gold, str) or canonical(gold) is None):
            raise UserError(f"{where}: field 'gold' must be a non-empty string, or be left out on every line")
        if correct is not None and (
            not isinstance(correct, list)
            or len(correct) != len(answers)
            or not all(isinstance(verdict, bool) for verdict in correct)
        ):
            raise UserError(f"{where}: field 'correct' must be a list of {len(answers)} true or false, or be left out")
        for name, value in (("gold", gold), ("correct", correct)):
            if value is not None:
                given[name].append(number)
        questions.append(
            Answered(str(identifier), codes_of(answers, gold), None if correct is None else np.array(correct))
        )
    if not questions:
        raise UserError(f"{path} has no questions")
    for name, numbers in given.items():
        if numbers and len(numbers) < len(questions):
            missing = min(set(seen.values()) - set(numbers))
            raise UserError(f"{path}, line {missing}: field {name!r} is missing; give it on every line, or on none")
    return AnswerFile(path.stem, tuple(questions), bool(given["gold"]))


def vote_sizes(samples: int) -> list[int]:
    """The k of the curves: powers of two up to `samples`, and `samples`."""
    return sorted({2**i for i in range(samples.bit_length())} | {samples})


def most_votes(samples: int) -> int:
    """The full vote that adaptive voting is compared with: the largest power of two up to `samples`, at most 64."""
    return int(min(MOST_VOTES, 2 ** (samples.bit_length() - 1)))


def vote_curves(file: AnswerFile) -> pd.DataFrame:
    """The file's numbers, a row per measure and k (none: all of a question's samples), columns CURVES.

    Label-free: `majority ratio` and `tie rate` of a vote over k, `abstention rate`, `classes` (different answers to
    a question). With true labels: `label accuracy` of a vote over k, `pass`, `gain` (label accuracy minus avg),
    and at k = `most_votes`: `gain where helped` and `loss where hurt` (its two parts), `helped` and
    `hurt` (shares of questions whose label accuracy is above or below their avg); `avg`; `confidently wrong`
    (questions more than half of whose samples agree on one wrong answer); `agreement` with the file's own
    verdicts. Expectations over draws without replacement; intervals over QUESTIONS.
    """
    ks = vote_sizes(file.samples)
    codes = [question.codes_N[None] for question in file.questions]
    votes = [votes_at_k(codes_1N, ks) for codes_1N in codes]
    rows: list[dict[str, object]] = []

    def add(measure: str, found: Estimate, k: float = np.nan) -> None:
        values = (file.name, len(codes), file.samples, measure, k, found.value, found.low, found.high)
        rows.append(dict(zip(CURVES, (*values, found.population or ""), strict=True)))

    tied_QK = np.concatenate([vote.tied_QK for vote in votes])
    majority_QK = np.concatenate([vote.majority_QK for vote in votes])
    for i, k in enumerate(ks):
        add("majority ratio", questions_mean_interval(majority_QK[:, i]), k)
        add("tie rate", questions_mean_interval(tied_QK[:, i]), k)
    add("abstention rate", questions_mean_interval(np.array([abstention_rate(one) for one in codes])))
    add("classes", questions_mean_interval(np.array([len(set(one[one >= 0])) for one in codes], dtype=float)))
    if file.labelled:
        correct_QK = np.concatenate([vote.correct_QK for vote in votes])
        avg_Q = np.array([avg_at_k(one) for one in codes])
        for i, k in enumerate(ks):
            add("label accuracy", questions_mean_interval(correct_QK[:, i]), k)
            add("pass", questions_mean_interval(np.concatenate([pass_at_k_Q(one, k) for one in codes])), k)
            add("gain", questions_mean_interval(correct_QK[:, i] - avg_Q), k)
        largest = most_votes(file.samples)
        change_Q = correct_QK[:, ks.index(largest)] - avg_Q
        change_Q = np.where(np.abs(change_Q) < 1e-9, 0.0, change_Q)  # rounding
        add("gain where helped", questions_mean_interval(np.maximum(change_Q, 0)), largest)
        add("loss where hurt", questions_mean_interval(np.maximum(-change_Q, 0)), largest)
        add("helped", questions_interval(change_Q > 0), largest)
        add("hurt", questions_interval(change_Q < 0), largest)
        add("avg", questions_mean_interval(avg_Q))
        wrong_Q = np.array([majority_ratio(np.where(one == 0, -1, one)) for one in codes])
        add("confidently wrong", questions_interval(wrong_Q > 0.5))
        agreed = [
            float(((question.codes_N == 0) == question.correct_N).mean())
            for question in file.questions
            if question.correct_N is not None
        ]
        if agreed:
            add("agreement", questions_mean_interval(np.array(agreed)))
    return pd.DataFrame(rows, columns=CURVES)


class Rule(Protocol):
    """When to stop a vote early."""

    @property
    def looks(self) -> tuple[int, ...]:
        """Sample counts after which it looks, in order; at the last it stops."""

    def accepted(self, seen: int) -> np.ndarray:
        """Bool [a, b]: whether it stops when the leader has a of `seen` votes and the runner-up b; never if a = b."""


@dataclass(frozen=True)
class BetaRule:
    """Adaptive-Consistency's rule (Aggarwal et al. 2023, arXiv 2305.11860), a peer: stop when P(p1 > p2) >= CERTAINTY.

    p1 is Beta(a + 1, b + 1) for the votes a and b of leader and runner-up, p2 = 1 - p1. The certainty is that of
    one look; over several looks nothing bounds the error.
    """

    votes: int
    chunk: int

    @property
    def looks(self) -> tuple[int, ...]:
        """As `SequentialRule.looks`."""
        return (*range(self.chunk, self.votes, self.chunk), self.votes)

    def accepted(self, seen: int) -> np.ndarray:
        """As `SequentialRule.accepted`."""
        return _sure_enough(seen)


@lru_cache(maxsize=256)
def _sure_enough(seen: int) -> np.ndarray:
    counts = np.arange(seen + 1)
    return scipy_stats.beta.sf(0.5, counts[:, None] + 1, counts[None] + 1) >= CERTAINTY


def rules(votes: int, chunk: int) -> Iterator[tuple[str, int, Rule]]:
    """The rules compared, with the name and chunk of each: curtailment, the sequential rule, Adaptive-Consistency's."""
    for error in ERRORS:
        yield f"error <= {error:g}" if error else "curtailment", chunk, SequentialRule(votes, chunk, error)
    for size in dict.fromkeys((chunk, 1)):
        yield "beta", size, BetaRule(votes, size)


def adaptive_table(file: AnswerFile, chunk: int, orders: int, seed: int) -> pd.DataFrame:
    """What every rule saves and costs, columns ADAPTIVE; empty if the full vote is not above one chunk.

    A question's samples are put into `orders` random orders; the first `most_votes` of each are the full vote.
    Measures: `samples` used; `saved` share of them; `disagreement`: the label is no winner of the full vote;
    with true labels `accuracy change` against the full vote, a tie counting in the gold answer's share.
    Means over orders, then over questions, with intervals over QUESTIONS.
    """
    votes = most_votes(file.samples)
    if votes <= chunk:
        return pd.DataFrame(columns=ADAPTIVE)
    compared = list(rules(votes, chunk))
    outcomes_QRM = np.array(
        [
            _outcomes(question.codes_N, [rule for _, _, rule in compared], votes, orders, generator(seed, "orders", i))
            for i, question in enumerate(file.questions)
        ]
    )
    rows = []
    for r, (name, size, _) in enumerate(compared):
        samples_Q, disagreement_Q, change_Q = outcomes_QRM[:, r].T
        measures = {"samples": samples_Q, "saved": 1 - samples_Q / votes, "disagreement": disagreement_Q}
        if file.labelled:
            measures["accuracy change"] = change_Q
        for measure, values_Q in measures.items():
            found = questions_mean_interval(values_Q)
            values = (file.name, votes, name, size, measure, found.value, found.low, found.high)
            rows.append(dict(zip(ADAPTIVE, (*values, found.population or ""), strict=True)))
    return pd.DataFrame(rows, columns=ADAPTIVE)


def _outcomes(
    codes_N: np.ndarray, compared: Sequence[Rule], votes: int, orders: int, rng: np.random.Generator
) -> np.ndarray:
    """Samples used, disagreement and change in accuracy under every rule, means over orders: (rules, 3)."""
    codes_OV = rng.permuted(np.tile(codes_N, (orders, 1)), axis=1)[:, :votes]
    classes = np.arange(max(int(codes_N.max()) + 1, 2))
    counts_OVC = np.cumsum(codes_OV[:, :, None] == classes, axis=1, dtype=np.int16)
    label_OV = counts_OVC.argmax(axis=2)
    second_OV, first_OV = np.moveaxis(np.partition(counts_OVC, -2, axis=2)[:, :, -2:], 2, 0)
    full_OC = counts_OVC[:, -1]
    wins_OC = (full_OC == full_OC.max(axis=1, keepdims=True)) & (full_OC > 0)
    right_O = wins_OC[:, 0] / np.maximum(wins_OC.sum(axis=1), 1)
    each = np.arange(orders)
    found = []
    for rule in compared:
        stop_O = np.full(orders, votes)
        for seen in reversed(rule.looks[:-1]):
            stops_O = rule.accepted(seen)[first_OV[:, seen - 1], second_OV[:, seen - 1]]
            stop_O = np.where(stops_O, seen, stop_O)
        early_O = stop_O < votes
        label_O = label_OV[each, stop_O - 1]
        wrong_O = early_O & ~wins_OC[each, label_O]
        change_O = np.where(early_O, label_O == 0, right_O) - right_O
        found.append((stop_O.mean(), wrong_O.mean(), change_O.mean()))
    return np.array(found)


def study(paths: Sequence[Path], chunk: int, orders: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`vote_curves` and `adaptive_table` of every file. Raises UserError, before any work, for files that cannot be."""
    files = [read_answers(path) for path in paths]
    names = [file.name for file in files]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise UserError(
                f"{paths[i]}: another file is called {name!r} too; rows go by the file's name, so rename one"
            )
    curves = [vote_curves(file) for file in files]
    adaptive = [adaptive_table(file, chunk, orders, seed) for file in files]
    filled = [table for table in adaptive if not table.empty]
    return (
        pd.concat(curves, ignore_index=True),
        pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=ADAPTIVE),
    )


def write_study(curves: pd.DataFrame, adaptive: pd.DataFrame, folder: Path) -> list[Path]:
    """Write figure and numbers: votes.pdf, .png, .csv and votes_adaptive.csv; returns their paths."""
    paths = save(draw(curves), curves, folder, NAME)
    paths.append(folder / f"{NAME}_adaptive.csv")
    adaptive.to_csv(paths[-1], index=False, float_format="%.6g", lineterminator="\n")
    return paths


def read_study(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The numbers that `write_study` wrote: curves and adaptive. Raises UserError if they are not there."""
    tables = []
    for name in (NAME, f"{NAME}_adaptive"):
        path = folder / f"{name}.csv"
        if not path.is_file():
            raise UserError(f"no {path}; `ttrl votes FILE ... --out {folder}` writes it")
        tables.append(pd.read_csv(path, keep_default_na=False, na_values={"k": [""]}))
    return tables[0], tables[1]


def print_study(curves: pd.DataFrame, adaptive: pd.DataFrame) -> None:
    """Print the tables, a row per file, and what the intervals range over."""
    out = console()
    values = numbers(curves)
    names = list(dict.fromkeys(curves["file"]))
    largest = {name: most_votes(int(curves[curves["file"] == name]["samples"].iloc[0])) for name in names}
    labelled = [name for name in names if (name, "avg", None) in values]
    if labelled:
        table = _table("file", "k", "avg", "label accuracy", "gain over avg", "at k/4", "hurt", "pass@k")
        for name in labelled:
            k = largest[name]
            table.add_row(
                name,
                str(k),
                f"{values[name, 'avg', None].value:.3f}",
                _cell(values[name, "label accuracy", k]),
                _cell(values[name, "gain", k]),
                f"{values[name, 'label accuracy', k // 4].value:.3f}" if k >= 4 else "-",
                f"{values[name, 'hurt', k].value:.3f}",
                f"{values[name, 'pass', k].value:.3f}",
            )
        out.print(table)
    table = _table("file", "questions", "k", "majority ratio", "ties", "blanks", "classes", "agreement")
    for name in names:
        first = curves[curves["file"] == name].iloc[0]
        agreement = values.get((name, "agreement", None))
        table.add_row(
            name,
            f"{first['questions']} x {first['samples']}",
            str(largest[name]),
            _cell(values[name, "majority ratio", largest[name]]),
            f"{values[name, 'tie rate', largest[name]].value:.3f}",
            f"{values[name, 'abstention rate', None].value:.3f}",
            f"{values[name, 'classes', None].value:.1f}",
            "-" if agreement is None else f"{agreement.value:.4f}",
        )
    out.print(table)
    out.print(
        f"{LEVEL:.0%} intervals: other questions of the same kind (bootstrap over questions). Votes over k samples,\n"
        "drawn without replacement; ties are split evenly; samples without an answer do not vote. Label accuracy:\n"
        "share of questions whose label is right. At k/4: the same at a quarter of the samples. Hurt: share of\n"
        "questions on which it is below their avg. Agreement: of our verdicts with the file's own.",
        highlight=False,
    )
    if not adaptive.empty:
        shown = adaptive_cells(adaptive)
        table = _table("stopping early", "k", *(heading.replace(", ", "\n") for heading in shown.columns))
        for (name, votes), cells in zip(shown.index, shown.to_numpy(), strict=True):
            table.add_row(name, str(votes), *cells)
        out.print(table)
        out.print(
            "Share of k samples saved / share of labels that are no winner of the vote over all k.", highlight=False
        )
        changes = adaptive[adaptive["measure"] == "accuracy change"]["value"].abs()
        if not changes.empty:
            out.print(f"Label accuracy changes by at most {changes.max():.4f} in any cell.", highlight=False)
    for name in names:
        if name not in set(adaptive["file"]):
            out.print(f"{name}: too few samples to look before the last.", highlight=False)


def adaptive_cells(adaptive: pd.DataFrame) -> pd.DataFrame:
    """`adaptive_table` in one line per file and full vote, a column per rule: `saved / disagreement`."""
    by = adaptive[["file", "votes"]].drop_duplicates()
    if adaptive.empty:
        return pd.DataFrame()
    rows: dict[tuple[str, int], dict[str, str]] = {key: {} for key in by.itertuples(index=False, name=None)}
    for row in rows_of(adaptive[adaptive["measure"].isin(["saved", "disagreement"])]):
        cells = rows[row["file"], row["votes"]]
        column = f"{row['rule']}, every {row['chunk']}"
        cells[column] = f"{cells[column]} / {row['value']:.4f}" if column in cells else f"{row['value']:.2f}"
    table = pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows))
    return table.fillna("-")


def markdown(curves: pd.DataFrame, adaptive: pd.DataFrame) -> str:
    """Both tables of labelled files as markdown, at a full vote of `most_votes` samples and at a quarter of it."""
    values = numbers(curves)
    lines = [
        "| file | questions x samples | k | avg | label accuracy | gain over avg | share of gain at k/4 "
        "| helped | hurt | confidently wrong | pass@k |",
        "|---" * 11 + "|",
    ]
    for name, questions, samples in curves[["file", "questions", "samples"]].drop_duplicates().itertuples(index=False):
        if (name, "avg", None) not in values:
            continue
        k = most_votes(samples)
        gain = values[name, "gain", k]
        early = values[name, "gain", max(k // 4, 1)].value / gain.value if gain.value > 0 else np.nan
        shares = (values[name, measure, k].value for measure in ("helped", "hurt"))
        lines.append(
            f"| {name} | {questions} x {samples} | {k} | {values[name, 'avg', None].value:.3f} "
            f"| {_interval(values[name, 'label accuracy', k])} | {_interval(gain)} | {early:.2f} | "
            + " | ".join(f"{share:.3f}" for share in shares)
            + f" | {values[name, 'confidently wrong', None].value:.3f} | {values[name, 'pass', k].value:.3f} |"
        )
    cells = adaptive_cells(adaptive)
    lines += ["", "| stopping early | k | " + " | ".join(cells.columns) + " |", "|---" * (2 + len(cells.columns)) + "|"]
    for (name, votes), row in zip(cells.index, cells.to_numpy(), strict=True):
        lines.append(f"| {name} | {votes} | " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def draw(curves: pd.DataFrame) -> Figure:
    """A panel per file: the vote's numbers against k, label accuracy with its interval over questions."""
    names = list(dict.fromkeys(curves["file"]))
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.2 * columns, 2.1 * lines + 0.5), squeeze=False, sharey=True)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        _draw_panel(axis, curves[curves["file"] == name])
        axis.set_title(name, loc="left")
    for row in axes:
        row[0].set_ylabel("share")
    handles = {line.get_label(): line for axis in axes.flat for line in axis.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncol=len(handles))
    return figure


SERIES = {
    "label accuracy": (COLOURS["blue"], "-"),
    "pass": (COLOURS["green"], ":"),
    "majority ratio": (COLOURS["orange"], "--"),
    "tie rate": (COLOURS["purple"], "-."),
}


def _draw_panel(axis: Axes, table: pd.DataFrame) -> None:
    for measure, (colour, dash) in SERIES.items():
        rows = table[table["measure"] == measure].sort_values("k")
        if rows.empty:
            continue
        axis.plot(rows["k"], rows["value"], dash, color=colour, label=f"{measure}@k" if measure == "pass" else measure)
        if measure == "label accuracy":
            axis.fill_between(rows["k"], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
    ks = [k for k in vote_sizes(int(table["samples"].iloc[0])) if k & (k - 1) == 0]
    axis.set_xscale("log", base=2)
    axis.set_xticks(ks, [str(k) for k in ks])
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("votes k")


def numbers(curves: pd.DataFrame) -> dict[tuple[str, str, int | None], Estimate]:
    """The rows of `vote_curves` by file, measure and k (None: all samples)."""
    return {
        (row["file"], row["measure"], None if pd.isna(row["k"]) else int(row["k"])): Estimate(
            row["value"], row["low"], row["high"], row["population"] or None
        )
        for row in rows_of(curves)
    }


def _interval(found: Estimate) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _cell(found: Estimate) -> str:
    return _interval(found).replace("[", r"\[")  # not rich's markup


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table
