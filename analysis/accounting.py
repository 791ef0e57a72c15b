"""Question by question: which turn right or wrong, whose labels change, and how sure the vote was at first.

An average hides who moved: avg may stand still while as many questions turn wrong as right. Three tables, of one
run or of the replicates of one cell; counts add up over runs, and come without intervals.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table

from analysis.load import Study, load, rows_of
from ttrl_repro.errors import UserError
from ttrl_repro.records import Row
from ttrl_repro.report import console
from ttrl_repro.stats import avg_at_k, maj_at_k_Q
from ttrl_repro.summary import codes_by_protocol

KINDS = ("stayed_wrong", "wrong_to_right", "right_to_wrong", "stayed_right")
PASS_RATES = ("0", "0 to .25", ".25 to .5", ".5 to .75", ".75 to 1", "1")  # an edge belongs below, but 1 alone
RATIOS = ("0 to .25", ".25 to .5", ".5 to .75", ".75 to 1")
CHANGES = ("changes", "wrong_to_right", "right_to_wrong")


def transitions(study: Study) -> pd.DataFrame:
    """How every evaluation's verdicts differ from the base's: `run`, `task`, `split`, `step`, `measure`, then counts.

    A row per measure (`greedy`; `maj@k` of the first k samples at the evaluation temperature, of both weights) and
    `base_pass_rate`, the base's avg over all its samples at that temperature, in the bins PASS_RATES that have
    `questions`. KINDS count them, and sum to `questions`; in a tied vote right and wrong have the shares of a fair
    draw, so counts of maj may be fractions. The base's maj and the bin share samples: some of what leaves an
    extreme bin of maj does so by chance (regression to the mean). Empty without true labels.
    """
    rows = []
    for run in rows_of(study.runs):
        k, temperature = run["k"], run["temperature"]
        mine = study.answers[study.answers["run"] == run["run"]]
        # Two evaluations are compared question by question, so both need one order.
        codes = codes_by_protocol(rows_of(mine.sort_values(["question_id", "sample"])))
        for task, split, step in dict.fromkeys(zip(mine["task"], mine["split"], mine["step"], strict=True)):
            if step == 0 or (task, split, step, temperature) not in codes:
                continue
            base, now = codes[task, split, 0, temperature], codes[task, split, step, temperature]
            bins = [pass_rate_bin(rate) for rate in (base == 0).mean(axis=1)]
            greedy = [codes[task, split, at, 0.0][:, 0] == 0 for at in (0, step)]
            votes = [maj_at_k_Q(codes_QN[:, :k]) for codes_QN in (base, now)]
            for measure, (before_Q, after_Q) in {"greedy": greedy, f"maj@{k}": votes}.items():
                counts_QC = transition_counts(before_Q.astype(float), after_Q.astype(float))
                for name in PASS_RATES:
                    inside = np.array([one == name for one in bins])
                    if inside.any():
                        where = (run["run"], task, split, step, measure, name, int(inside.sum()))
                        rows.append([*where, *counts_QC[inside].sum(axis=0)])
    columns = ["run", "task", "split", "step", "measure", "base_pass_rate", "questions", *KINDS]
    return pd.DataFrame(rows, columns=columns)


def transition_counts(before_Q: np.ndarray, after_Q: np.ndarray) -> np.ndarray:
    """Expected counts of KINDS, (Q, 4), from the probabilities of a right verdict before and after.

    A probability strictly between 0 and 1 is a tied vote; the two draws are independent. Rows sum to 1.
    """
    wrong_Q, turned_Q = 1 - before_Q, 1 - after_Q
    return np.stack([wrong_Q * turned_Q, wrong_Q * after_Q, before_Q * turned_Q, before_Q * after_Q], axis=1)


def pass_rate_bin(rate: float) -> str:
    """The bin of PASS_RATES: 0 and 1 alone, else four quarters, an edge in the lower one."""
    if rate in (0, 1):
        return PASS_RATES[-1 if rate else 0]
    return PASS_RATES[int(np.searchsorted([0.25, 0.5, 0.75], rate)) + 1]


def ratio_bin(ratio: float) -> str:
    """The bin of RATIOS: four quarters, an edge in the lower one."""
    return RATIOS[int(np.searchsorted([0.25, 0.5, 0.75], ratio))]


def label_changes(study: Study) -> pd.DataFrame:
    """How often a question's label changed: a row per `run` and `question_id`, from votes.parquet.

    `visits`: steps that voted on it. `changes`: of its label's key from one visit to the next (not between two ways
    of being right), of which `wrong_to_right` and `right_to_wrong`; the rest change from wrong to wrong. `first_ratio`:
    the majority ratio of its first visit (step 1, where a step takes all questions). `label_first`, `label_last`:
    whether the first and last visit's label is right. What needs true labels is NaN without them.
    """
    votes: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows_of(study.votes), key=lambda row: row["step"]):
        votes[row["run"], row["question_id"]].append(row)
    rows = [[*where, *_changes(visits)] for where, visits in sorted(votes.items())]
    columns = ["run", "question_id", "visits", *CHANGES, "first_ratio", "label_first", "label_last"]
    return pd.DataFrame(rows, columns=columns)


def _changes(visits: Sequence[Row]) -> tuple[float, ...]:
    first, last = visits[0], visits[-1]
    labelled = first["label_correct"] is not None
    changes = to_right = to_wrong = 0
    for before, after in pairwise(visits):
        was, now = before["label_correct"], after["label_correct"]
        changes += before["label_key"] != after["label_key"] and not (was and now)
        to_right += bool(now and not was)
        to_wrong += bool(was and not now)
    based = [float(value) if labelled else np.nan for value in (to_right, to_wrong)]
    ends = [float(end["label_correct"]) if labelled else np.nan for end in (first, last)]
    return (len(visits), changes, *based, first["top_count"] / first["n"], *ends)


def by_first_ratio(study: Study) -> pd.DataFrame:
    """Accuracy of the trained questions by the majority ratio of their first vote: a row per `run` and bin of RATIOS.

    `questions`; means over them of `visits`, `changes`, `wrong_to_right`, `right_to_wrong`, `label_first`, `label_last`
    (see `label_changes`), and `avg_first`, `avg_last`: avg@k at the evaluation temperature, of the base and of the last
    evaluation. NaN without true labels.
    """
    changes = label_changes(study)
    if changes.empty:
        raise UserError("no votes in these records")
    averages: dict[tuple[str, str], tuple[float, float]] = {}
    for run in rows_of(study.runs):
        mine = study.answers[
            (study.answers["run"] == run["run"])
            & (study.answers["task"] == run["trained_task"])
            & (study.answers["split"] == "train")
        ]
        for question, rows in mine.groupby("question_id", sort=False):
            codes = codes_by_protocol(rows_of(rows))
            steps = [step for _, _, step, t in codes if t == run["temperature"]]
            if steps:
                first, last = (codes[run["trained_task"], "train", at, run["temperature"]] for at in (0, max(steps)))
                averages[run["run"], str(question)] = avg_at_k(first[:, : run["k"]]), avg_at_k(last[:, : run["k"]])
    keys = list(zip(changes["run"], changes["question_id"], strict=True))
    table = changes.assign(
        first_ratio=[ratio_bin(ratio) for ratio in changes["first_ratio"]],
        avg_first=[averages.get(key, (np.nan, np.nan))[0] for key in keys],
        avg_last=[averages.get(key, (np.nan, np.nan))[1] for key in keys],
    )
    measures = ["visits", *CHANGES, "label_first", "label_last", "avg_first", "avg_last"]
    rows = []
    for run in table["run"].unique():
        for name in RATIOS:
            group = table[(table["run"] == run) & (table["first_ratio"] == name)]
            if len(group):
                rows.append([run, name, len(group), *(group[measure].mean() for measure in measures)])
    return pd.DataFrame(rows, columns=["run", "first_ratio", "questions", *measures])


def print_accounting(folder: Path) -> None:
    """Print the tables of a run, or of a folder of replicates of one cell. Raises UserError for several cells."""
    study, out = load(folder), console()
    cells = study.runs["cell"].unique()
    if len(cells) > 1:
        raise UserError(f"{folder}: runs of {len(cells)} cells ({', '.join(cells)}); give a folder with those of one")
    strata, changes, moved = by_first_ratio(study), label_changes(study), transitions(study)
    first = rows_of(study.runs)[0]
    runs = f"{len(study.runs)} runs, counts summed over them" if len(study.runs) > 1 else "1 run"
    what = f"{first['name']}: {first['model']} on {first['task']}, reward {first['reward']}"
    out.print(f"{what}; {runs}", highlight=False)
    for (task, split), group in moved.groupby(["task", "split"], sort=False):
        last = group[group["step"] == group.groupby("run")["step"].transform("max")]
        if (task, split) == (first["trained_task"], "train"):
            out.print(_transitions_table(f"{task} {split}\nafter step", "step", group["step"].unique(), group))
        out.print(_transitions_table(f"{task} {split}, at the end\nbase pass rate", "base_pass_rate", PASS_RATES, last))
    if not moved.empty:
        out.print(
            "Questions that turned right, or wrong, against the base: by its greedy answer, and by a vote over its\n"
            f"first {first['k']} samples at T={first['temperature']:g} (a tie counts in shares).",
            highlight=False,
        )
    out.print(_strata_table(strata, first["k"]))
    chances = int((changes["visits"] - 1).sum())
    text = f"labels changed {int(changes['changes'].sum())} times in {chances} chances (a question's next vote)"
    if changes["label_first"].notna().all():
        right, wrong = (int(changes[name].sum()) for name in CHANGES[1:])
        text += f": {right} wrong to right, {wrong} right to wrong, the rest from one wrong label to another"
    out.print(text, highlight=False, soft_wrap=True)


def _transitions_table(heading: str, column: str, values: Iterable[Any], moved: pd.DataFrame) -> Table:
    """A row per value of `column`, and for each measure what it counts, summed over runs."""
    measures = list(dict.fromkeys(moved["measure"]))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(heading)
    table.add_column("questions", justify="right")
    for measure in measures:
        for kind in ("wrong to\nright", "right to\nwrong", "stayed\nright"):
            table.add_column(f"{measure}\n{kind}", justify="right")
    for value in values:
        rows = moved[moved[column] == value]
        if rows.empty:
            continue
        cells = [
            f"{rows[rows['measure'] == measure][kind].sum():.3g}"
            for measure in measures
            for kind in ("wrong_to_right", "right_to_wrong", "stayed_right")
        ]
        table.add_row(str(value), str(rows[rows["measure"] == measures[0]]["questions"].sum()), *cells)
    return table


def _strata_table(strata: pd.DataFrame, k: int) -> Table:
    """A row per bin of the first majority ratio: means over the questions of all runs."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("majority ratio\nof the first vote")
    for heading in ("questions", "label changes\na question", "wrong to\nright", "right to\nwrong",
                    "label accuracy\nfirst", "\nlast", f"avg@{k}\nbase", "\nend"):  # fmt: skip
        table.add_column(heading, justify="right")
    measures = [*CHANGES, "label_first", "label_last", "avg_first", "avg_last"]
    for name in RATIOS:
        rows = strata[strata["first_ratio"] == name]
        if rows.empty:
            continue
        weights = rows["questions"].to_numpy()
        means = [float(np.average(rows[measure].to_numpy(), weights=weights)) for measure in measures]
        table.add_row(name, str(weights.sum()), *("-" if np.isnan(mean) else f"{mean:.3f}" for mean in means))
    return table
