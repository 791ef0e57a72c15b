"""Confirmatory claims: written down before their runs (claims.yaml), tested over replicates, judged by fixed rules.

A claim is about the mean over replicates of left - right, two measures of runs of the same replicate. Which runs these
are is fixed beforehand. An arm is a cell, by its hash in the file: a run of that name with another reward, rate or task
is refused. Replicate r, from 0 to `replicates` - 1, has the seeds `seeds_of(r)`; each has a draw of its own, as two of
one draw share their questions and are not independent. No other run counts, and a gap is not filled: nobody can stop at
a lucky number, leave out an unlucky run, or bring in the draws that the laboratory's dials were chosen on.

**Tests.** `greater`: the two-sided sign-flip test of "no difference". `equivalent`: two one-sided t tests of "at least
smallest_effect apart" (TOST). Each p-value is valid for its own null, so one Holm procedure over all claims of the file
holds the probability that *any* claim is taken for supported, or for significantly reversed, though its null is true at
.05, whatever their dependence. A claim whose replicates are not all there keeps its place with p = 1: the others
gain nothing from a missing arm.

**Verdicts** of `greater`:

- supported: Holm-adjusted p < .05 and mean > 0, wherever the interval ends. If the mean is below smallest_effect, a
  note says so: the effect is there, but smaller than what was called interesting;
- contradicted: Holm-adjusted p < .05 and mean < 0, the opposite is found; or, without significance, the 95 % t interval
  ends below smallest_effect: an effect worth the claim is ruled out. The latter errs, per claim and not family-wise, in
  2.5 % of cases in which the effect is smallest_effect;
- insufficient: everything else, and any claim with missing replicates.

Verdicts of `equivalent`:

- supported: Holm-adjusted TOST p < .05. It implies that the 90 % interval lies inside the margin, but is stricter for a
  claim among several: three "no difference" in a family have three chances to be wrong;
- contradicted: the 90 % interval lies wholly outside the margin (errs per claim in 5 % at the margin itself);
- insufficient: everything else, also an interval inside the margin at .05 but not at the claim's Holm level.

**What this rests on.** The sign-flip test takes differences as symmetric about 0 under its null, the t intervals as
roughly normal; how much skewed differences, as of a run that collapses now and then, cost is not known here. And
`base_best_avg` and `base_best_maj` are the highest of several measurements, chosen on the same samples, so they lie
above what the base would show on new ones (the winner's curse). That favours the base: a claim against them is
conservative where it ends supported, and anti-conservative where it ends contradicted, by the interval above all, since
a small true effect looks smaller still. `analysis/null_study.py` says what simulation can and cannot show of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError, model_validator

from analysis.load import Study, load, rows_of
from ttrl_repro import laboratory
from ttrl_repro.config import describe
from ttrl_repro.errors import UserError
from ttrl_repro.parts import Strict
from ttrl_repro.replicate_tests import ALPHA, equivalence_p, holm, sign_flip_p
from ttrl_repro.stats import avg_at_k, maj_at_k, pass_at_k, replicates_interval
from ttrl_repro.summary import Codes, codes_by_protocol
from ttrl_repro.tasks.miniature import DEVELOPMENT_DRAWS
from ttrl_repro.yaml_files import read_yaml

PATH = Path(__file__).with_name("claims.yaml")
MOST = 8  # claims
LAST_STEPS = 5  # behind `last_label_accuracy`
# Over which replicates rotate: as many as the study pretrains of a size. One base would leave a claim about that base
# alone; a base of its own for each replicate would cost more to pretrain than the runs do.
BASE_SEEDS = 3
SMALL = "smaller than the smallest effect of interest"
COLUMNS = ["key", "kind", "n", "mean", "low", "high", "p", "p_holm", "verdict", "note", "reason"]


@dataclass(frozen=True)
class Evaluations:
    """A run's evaluations of one set, as codes_QN by temperature (0: greedy): of the base, and after the last step."""

    base: Mapping[float, np.ndarray]
    end: Mapping[float, np.ndarray]
    temperature: float
    k: int

    def base_avg(self) -> float:
        """avg@k of the base at the evaluation temperature."""
        return avg_at_k(self.base[self.temperature][:, : self.k])

    def base_best_avg(self) -> float:
        """The highest of greedy and avg@k over the base's temperatures, chosen on the same samples."""
        return max([self.base_greedy(), *(avg_at_k(codes_QN[:, : self.k]) for codes_QN in self._warm())])

    def base_maj(self) -> float:
        """maj of all the base's samples at the evaluation temperature."""
        return maj_at_k(self.base[self.temperature])

    def base_best_maj(self) -> float:
        """maj of the base at the temperature where it is highest, chosen on the same samples."""
        return max(map(maj_at_k, self._warm()))

    def base_pass(self) -> float:
        """pass@N of the base, N all samples (64 by default), at the evaluation temperature."""
        return _pass(self.base[self.temperature])

    def base_greedy(self) -> float:
        """The base's greedy accuracy."""
        return avg_at_k(self.base[0.0])

    def avg(self) -> float:
        """avg@k after training."""
        return avg_at_k(self.end[self.temperature][:, : self.k])

    def maj(self) -> float:
        """maj of all samples after training."""
        return maj_at_k(self.end[self.temperature])

    def pass_(self) -> float:
        """pass@N after training, of as many samples as the base's."""
        return _pass(self.end[self.temperature])

    def greedy(self) -> float:
        """Greedy accuracy after training."""
        return avg_at_k(self.end[0.0])

    def _warm(self) -> list[np.ndarray]:
        return [codes_QN for temperature, codes_QN in self.base.items() if temperature > 0]


def _pass(codes_QN: np.ndarray) -> float:
    return pass_at_k(codes_QN, codes_QN.shape[1])


Measure = Literal[
    "base_avg", "base_best_avg", "base_maj", "base_best_maj", "base_pass", "base_greedy",
    "avg", "maj", "pass", "greedy", "first_label_accuracy", "last_label_accuracy",
]  # fmt: skip
MEASURES: dict[str, Callable[[Evaluations], float]] = {
    "base_avg": Evaluations.base_avg,
    "base_best_avg": Evaluations.base_best_avg,
    "base_maj": Evaluations.base_maj,
    "base_best_maj": Evaluations.base_best_maj,
    "base_pass": Evaluations.base_pass,
    "base_greedy": Evaluations.base_greedy,
    "avg": Evaluations.avg,
    "maj": Evaluations.maj,
    "pass": Evaluations.pass_,
    "greedy": Evaluations.greedy,
}
Text = Field(min_length=1)


class Quantity(Strict):
    """One side of a claim: a measure of every run of an arm (an experiment's name).

    task: `trained` is the arm's own. `first_label_accuracy` and `last_label_accuracy` are the label accuracy of step 1
    and its mean over the last LAST_STEPS steps, of training itself: they have no other task and no fresh split.
    """

    arm: str = Text
    measure: Measure
    task: str = Field("trained", min_length=1)
    split: Literal["train", "fresh"] = "train"

    @model_validator(mode="after")
    def _labels_are_of_training(self) -> Quantity:
        if self.measure not in MEASURES and (self.task, self.split) != ("trained", "train"):
            raise ValueError(f"{self.measure} is of training itself: leave out task and split")
        return self


class Claim(Strict):
    """A claim that `left` is greater than `right`, or equivalent to it; the module's docstring has the verdicts.

    smallest_effect: the smallest difference that would be interesting, and the margin of `equivalent`, as a share.
    replicates: fewer than the draws that the laboratory's dials were chosen on begin with.
    """

    key: str = Field(pattern=r"^[a-z0-9-]+$")
    statement: str = Text
    left: Quantity
    right: Quantity
    kind: Literal["greater", "equivalent"]
    smallest_effect: float = Field(gt=0, lt=1)
    replicates: int = Field(ge=10, lt=DEVELOPMENT_DRAWS)
    refuted_if: str = Text

    @model_validator(mode="after")
    def _two_sides(self) -> Claim:
        if self.left == self.right:
            raise ValueError("left and right are the same quantity")
        return self


def refuse_twice(keys: Sequence[str]) -> None:
    """Raise ValueError if a key is there twice."""
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"key {twice[0]!r} is used twice")


class Claims(Strict):
    """The content of a claims file: what its arms are, and 1 to MOST claims about them with different keys.

    arms: of each arm the cell (`Experiment.cell_hash`) that its runs are of.
    """

    arms: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]]
    claims: tuple[Claim, ...] = Field(min_length=1, max_length=MOST)

    @model_validator(mode="after")
    def _different_keys(self) -> Claims:
        refuse_twice([claim.key for claim in self.claims])
        return self

    @model_validator(mode="after")
    def _arms_are_the_claims(self) -> Claims:
        needed = set(arms_of(self.claims))
        for arm in sorted(needed ^ self.arms.keys()):
            raise ValueError(f"arm {arm!r} {'has no cell in arms' if arm in needed else 'is in no claim'}")
        return self


def arms_of(claims: Iterable[Claim]) -> list[str]:
    """The arms that claims compare, each once, in their order."""
    return list(dict.fromkeys(side.arm for claim in claims for side in (claim.left, claim.right)))


def seeds_of(replicate: int) -> tuple[int, int, int]:
    """Base seed, question draw and RL seed of a replicate."""
    return replicate % BASE_SEEDS, replicate, replicate


def read_file(path: Path = PATH) -> Claims:
    """The content of a claims file. Raises UserError naming file, claim, field and complaint."""
    content = read_yaml(path, "claims")
    try:
        return Claims.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error, Claims)}") from error


def read_claims(path: Path = PATH) -> tuple[Claim, ...]:
    """The claims of a file. Raises UserError as `read_file`."""
    return read_file(path).claims


class Values:
    """The finished runs of some arms of a study, and their measures; every run's answers are decoded once."""

    def __init__(self, study: Study, arms: Iterable[str]) -> None:
        runs = study.runs[(study.runs["state"] == "finished") & study.runs["name"].isin(set(arms))]
        self.runs = rows_of(runs)
        steps = study.answers["run"].map(runs.set_index("run")["steps_done"])
        needed = study.answers[(study.answers["step"] == 0) | (study.answers["step"] == steps)]
        self.codes: dict[str, Codes] = {
            str(run): codes_by_protocol(rows_of(group))
            for run, group in needed[steps.loc[needed.index].notna()].groupby("run", sort=False)
        }
        labels = study.metrics[study.metrics["metric"] == "label_accuracy"]
        self.labels = {
            str(run): dict(zip(group["step"], group["value"], strict=True)) for run, group in labels.groupby("run")
        }

    def of(self, run: Mapping[str, Any], quantity: Quantity) -> float:
        """A run's value. Raises UserError, naming the run, if its record does not have what the measure needs."""
        if quantity.measure not in MEASURES:
            return self._label_accuracy(run, quantity.measure)
        task = run["trained_task"] if quantity.task == "trained" else quantity.task
        found = self.codes.get(run["run"], {})
        base, end = (
            {t: codes_QN for (*where, t), codes_QN in found.items() if where == [task, quantity.split, step]}
            for step in (0, run["steps_done"])
        )
        for what, codes in (("the base", base), ("the trained model", end)):
            missing = {0.0, run["temperature"]} - codes.keys()
            if missing:
                raise UserError(
                    f"{run['run']}: no evaluation of {what} on {task} ({quantity.split}), T={min(missing):g}, "
                    f"with true labels, which {quantity.measure} needs"
                )
        return MEASURES[quantity.measure](Evaluations(base, end, run["temperature"], run["k"]))

    def _label_accuracy(self, run: Mapping[str, Any], measure: str) -> float:
        last = run["steps_done"]
        steps = [1] if measure == "first_label_accuracy" else list(range(last - LAST_STEPS + 1, last + 1))
        accuracies = self.labels.get(run["run"], {})
        missing = [step for step in steps if step not in accuracies]
        if missing:
            raise UserError(f"{run['run']}: no label_accuracy of step {missing[0]}, which {measure} needs")
        return float(np.mean([accuracies[step] for step in steps]))

    def differences(self, claim: Claim) -> np.ndarray:
        """left - right of every replicate of a claim, (replicates,), in their order; NaN where a run is missing.

        Raises UserError if a measure is missing, if an arm's runs are not of one cell, or if paired runs differ in what
        they must share: base, questions and protocol.
        """
        left, right = self._arm(claim.left.arm), self._arm(claim.right.arm)
        differences = np.full(claim.replicates, np.nan)
        for replicate in range(claim.replicates):
            one, other = left.get(seeds_of(replicate)), right.get(seeds_of(replicate))
            if one is not None and other is not None:
                _refuse_unlike(claim, one, other)
                differences[replicate] = self.of(one, claim.left) - self.of(other, claim.right)
        return differences

    def others(self, claim: Claim) -> int:
        """How many runs of a claim's arms are there that are none of its replicates."""
        replicates = {seeds_of(replicate) for replicate in range(claim.replicates)}
        return sum(len(self._arm(arm).keys() - replicates) for arm in {claim.left.arm, claim.right.arm})

    def _arm(self, name: str) -> dict[tuple[int, int, int], dict[str, Any]]:
        """An arm's runs by base seed, draw and RL seed."""
        runs = [run for run in self.runs if run["name"] == name]
        cells = sorted({run["cell"] for run in runs})
        if len(cells) > 1:
            raise UserError(f"arm {name}: its runs are of {len(cells)} cells ({', '.join(cells)}), not of one")
        return {(run["seed_base"], run["seed_draw"], run["seed_rl"]): run for run in runs}


def _refuse_unlike(claim: Claim, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    shared = ["model", "weights", "protocol"]
    # A run on another task has other questions; the sets that are compared are then named by the claim.
    shared += ["questions"] if one["trained_task"] == other["trained_task"] else []
    for name in shared:
        if one[name] != other[name]:
            raise UserError(
                f"claim {claim.key}: {one['run']} and {other['run']} cannot be paired, their {name} differ "
                f"({one[name]}; {other[name]})"
            )


def _refuse_other_cells(runs: pd.DataFrame, arms: Mapping[str, str]) -> None:
    for run in rows_of(runs):
        cell = arms.get(run["name"], run["cell"])
        if run["cell"] != cell:
            raise UserError(
                f"{run['run']}: named {run['name']}, but its config is not that arm's: the arm is cell {cell}, the run "
                f"is of {run['cell']}"
            )


def evaluate_claims(study: Study, claims: Sequence[Claim], arms: Mapping[str, str] | None) -> pd.DataFrame:
    """A row per claim, COLUMNS (see `judge`), from the finished runs of a study loaded with `frozen=True`.

    arms: the cell of each arm, as in the claims' file; None accepts an arm's name for the arm, as simulations may.
    Raises UserError if a run of an arm is of another cell, if no arm of the claims is there at all, or as
    `Values.differences`.
    """
    if arms is not None:
        _refuse_other_cells(study.runs, arms)
    names = arms_of(claims)
    if not study.runs["name"].isin(names).any():
        there = ", ".join(dict.fromkeys(study.runs["name"]))
        raise UserError(f"no runs of the claims' arms ({', '.join(names)}); these are of {there}")
    values = Values(study, names)
    return judge(claims, list(map(values.differences, claims)), list(map(values.others, claims)))


def judge(
    claims: Sequence[Claim], differences_CR: Sequence[np.ndarray], others_C: Sequence[int] | None = None
) -> pd.DataFrame:
    """The verdicts (module's docstring) on differences of replicates: an array (replicates,) per claim, NaN for a gap.

    others_C: how many other runs are there, for the note. Columns: key, kind; n replicates that are there; mean, low,
    high of left - right (t interval: 95 %, of `equivalent` 90 %; NaN below 2 replicates); p of the claim's own test,
    p_holm; verdict; note; reason, the rule that decided. Raises ValueError if a claim's array has another length.
    """
    for claim, differences in zip(claims, differences_CR, strict=True):
        if differences.shape != (claim.replicates,):
            raise ValueError(f"claim {claim.key}: {claim.replicates} differences, not {differences.shape}")
    counted = [differences[~np.isnan(differences)] for differences in differences_CR]
    p_values = [_p_value(claim, differences) for claim, differences in zip(claims, counted, strict=True)]
    rows = []
    for claim, differences, p, p_holm, others in zip(
        claims, counted, p_values, holm(p_values), others_C or [0] * len(claims), strict=True
    ):
        n = len(differences)
        mean, low, high = float(differences.mean()) if n else np.nan, np.nan, np.nan
        if n > 1:
            found = replicates_interval(differences, 0.95 if claim.kind == "greater" else 0.90)
            low, high = found.low, found.high
        if n < claim.replicates:
            verdict, reason = "insufficient", f"{claim.replicates - n} of {claim.replicates} replicates are missing"
        else:
            verdict, reason = _verdict(claim, mean, low, high, p, p_holm)
        notes = [SMALL] if claim.kind == "greater" and verdict == "supported" and mean < claim.smallest_effect else []
        if others:
            notes.append(f"{others} other runs of its arms are there and do not count")
        rows.append([claim.key, claim.kind, n, mean, low, high, p, p_holm, verdict, "; ".join(notes), reason])
    return pd.DataFrame(rows, columns=COLUMNS)


def _p_value(claim: Claim, differences: np.ndarray) -> float:
    if len(differences) < claim.replicates:
        return 1.0
    if claim.kind == "greater":
        return sign_flip_p(differences)
    return equivalence_p(differences, claim.smallest_effect)


def _verdict(claim: Claim, mean: float, low: float, high: float, p: float, p_holm: float) -> tuple[str, str]:
    """Verdict and reason for a claim whose replicates are all there."""
    effect = claim.smallest_effect
    if claim.kind == "greater":
        if p_holm < ALPHA:
            return ("supported", "significant") if mean > 0 else ("contradicted", "significant, with the other sign")
        if high < effect:
            return "contradicted", f"the interval ends below {effect:g}"
        return "insufficient", f"not significant, and the interval reaches {effect:g}"
    if p_holm < ALPHA:
        return "supported", f"within {effect:g}"
    if low > effect or high < -effect:
        return "contradicted", f"the interval lies beyond {effect:g}"
    if p < ALPHA:
        return "insufficient", f"within {effect:g}, but not at the level that Holm's procedure leaves it"
    return "insufficient", f"the interval reaches {effect:g}"


def first_majority(study: Study) -> pd.DataFrame:
    """Whether training ends above the first majority vote: a row per cell of finished runs, on its own train set.

    name, cell, n; mean, low, high (95 % t interval over replicates) of avg minus `base_best_maj`, the base's maj at its
    best temperature; verdict: "first majority exceeded" if low > 0, else "first majority not exceeded" (of fewer than
    2 replicates: "too few replicates"). Runs of one draw share their questions, so their mean is one replicate.
    Descriptive, and no test. Raises UserError as `Values.of`.
    """
    values = Values(study, study.runs["name"])
    rows = []
    for cell in dict.fromkeys(run["cell"] for run in values.runs):
        runs = [run for run in values.runs if run["cell"] == cell]
        name = runs[0]["name"]
        after, before = Quantity(arm=name, measure="avg"), Quantity(arm=name, measure="base_best_maj")
        by_draw: dict[int, list[float]] = {}
        for run in runs:
            by_draw.setdefault(run["seed_draw"], []).append(values.of(run, after) - values.of(run, before))
        found = replicates_interval(np.array([np.mean(of_one) for of_one in by_draw.values()]))
        low, high = (found.low, found.high) if len(by_draw) > 1 else (np.nan, np.nan)
        exceeded = "first majority exceeded" if low > 0 else "first majority not exceeded"
        verdict = exceeded if len(by_draw) > 1 else "too few replicates"
        rows.append([name, cell, len(by_draw), found.value, low, high, verdict])
    return pd.DataFrame(rows, columns=["name", "cell", "n", "mean", "low", "high", "verdict"])


def markdown(verdicts: pd.DataFrame, first: pd.DataFrame, claims: Sequence[Claim]) -> str:
    """Both tables, with the claims' statements below."""
    lines = ["| claim | n | left - right | p | p (Holm) | verdict | why |", "|---" * 7 + "|"]
    for row in rows_of(verdicts):
        why = "; ".join(text for text in (row["reason"], row["note"]) if text)
        lines.append(
            f"| {row['key']} | {row['n']} | {_interval(row)} | {row['p']:.4f} | {row['p_holm']:.4f} | {row['verdict']} "
            f"| {why} |"
        )
    lines += ["", "| arm | n | avg minus the first majority vote | |", "|---" * 4 + "|"]
    lines += [f"| {row['name']} | {row['n']} | {_interval(row)} | {row['verdict']} |" for row in rows_of(first)]
    lines += ["", *(f"- **{claim.key}**: {claim.statement} Refuted if {claim.refuted_if}" for claim in claims)]
    return "\n".join(lines) + "\n"


def plan(claims: Sequence[Claim]) -> str:
    """The claims as a table, as they stand before any run: what is compared, from which effect on, how often."""
    lines = ["| claim | left | right | smallest effect | replicates |", "|---" * 5 + "|"]
    for claim in claims:
        relation = ">" if claim.kind == "greater" else "="
        lines.append(
            f"| {claim.key} | {_described(claim.left)} | {relation} {_described(claim.right)} "
            f"| {claim.smallest_effect:g} | {claim.replicates} |"
        )
    lines += ["", *(f"- **{claim.key}**: {claim.statement} Refuted if {claim.refuted_if}" for claim in claims)]
    return "\n".join(lines) + "\n"


def _described(side: Quantity) -> str:
    where = [side.task] * (side.task != "trained") + [side.split] * (side.split != "train")
    return f"{side.arm}: {side.measure}" + (f" ({', '.join(where)})" if where else "")


def _interval(row: Mapping[str, Any]) -> str:
    if np.isnan(row["mean"]):
        return "-"
    interval = "" if np.isnan(row["low"]) else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    return f"{row['mean']:+.3f}{interval}"


def code_line(runs: pd.DataFrame, tag: str) -> str:
    """A line on whether the code that made the runs is the tag's or later, as far as git can tell here.

    Raises UserError, naming a run, if one was made with other code.
    """
    commits = {run["run"]: run["commit"] for run in rows_of(runs)}
    named = {run: commit for run, commit in commits.items() if commit is not None}
    unrelated = laboratory.unrelated(named.values(), tag)
    if unrelated is None:
        return f"Not checked: whether these records were made at {tag} or later (no git checkout with its freeze here)."
    for run, commit in named.items():
        if commit in unrelated:
            raise UserError(f"{run}: its commit {commit[:12]} is neither that of {tag} nor a descendant of it")
    unnamed = len(commits) - len(named)
    unchecked = f"; not checked: {unnamed}, which an installed package made" if unnamed else ""
    return f"Made at {tag} or later, by git: {len(named)} of {len(commits)} records{unchecked}."


@dataclass(frozen=True)
class Judgement:
    """Claims judged on a study: verdicts (COLUMNS), `first_majority` of the runs that count, and `code_line`."""

    claims: tuple[Claim, ...]
    verdicts: pd.DataFrame
    first: pd.DataFrame
    code: str

    def markdown(self) -> str:
        """As text: the line on the code, then the tables."""
        return f"{self.code}\n\n{markdown(self.verdicts, self.first, self.claims)}"


def judged(study: Study, content: Claims) -> Judgement:
    """The claims of a file judged on a study of the frozen laboratory. Raises UserError as `code_line`,
    `evaluate_claims`."""
    code = code_line(study.runs, laboratory.read().tag)
    verdicts = evaluate_claims(study, content.claims, content.arms)
    replicates = {seeds_of(replicate) for replicate in range(max(claim.replicates for claim in content.claims))}
    seeds = zip(study.runs["seed_base"], study.runs["seed_draw"], study.runs["seed_rl"], strict=True)
    counted = replace(study, runs=study.runs[[of_run in replicates for of_run in seeds]])
    return Judgement(content.claims, verdicts, first_majority(counted), code)


def preregistered(study: Study) -> Judgement:
    """The study's own claims judged on those runs of a study that are of their arms.

    Raises UserError if the claims are not as frozen, if a run of an arm is not of the frozen laboratory, as `judged`.
    """
    content = read_file()
    refuse_changed(PATH)
    arms = replace(study, runs=study.runs[study.runs["name"].isin(content.arms)])
    for run in arms.runs["run"]:
        if run in study.foreign:
            raise UserError(f"{run}: not a record of the frozen laboratory: {study.foreign[run]}")
    return judged(arms, content)


def refuse_changed(path: Path) -> None:
    """Raise UserError if the claims of a file are not those of the freeze."""
    frozen = laboratory.read()
    if laboratory.claims_hash(path) != frozen.claims:
        raise UserError(f"{path}: these are not the claims of the freeze {frozen.tag}: they were changed since")


def report(folder: Path, path: Path = PATH) -> str:
    """The markdown of the claims in `path` on the records in `folder`, which must be of the frozen laboratory.

    The first majority is of the runs that count for the claims. Raises UserError for a bad file, for the study's own if
    it is not as frozen, for bad or foreign records, and as `evaluate_claims`.
    """
    content, frozen, head = read_file(path), laboratory.read(), ""
    if path.resolve() == PATH.resolve():
        refuse_changed(path)
    elif laboratory.claims_hash(path) != frozen.claims:
        head = f"These are not the preregistered claims (those of the freeze {frozen.tag}): they are {path}.\n\n"
    return head + judged(load(folder, frozen=True), content).markdown()
