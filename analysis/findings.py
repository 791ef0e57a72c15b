"""Every claim of the paper and of its critics, and what the study found: verdicts by rules that were fixed beforehand.

findings.yaml holds them with their criteria; it was written before the runs. The confirmatory ones are judged in
`analysis.claims` (tests over ten replicates, Holm over all); here they only lend their verdict. All others are
descriptive: an interval over replicates, no test, no correction for their number. A finding may ask for several
comparisons: it is supported if all are, contradicted if one is, otherwise insufficient.

Verdicts of a comparison:

- `greater`: the mean over replicates of left - right (of one arm or of two, paired on the replicate) is above `least`
  (0 unless said). supported: the 95 % t interval lies above it; contradicted: it lies below;
- `equivalent`: supported if the 90 % t interval of left - right lies within +-margin, contradicted if wholly outside;
- `trend`: the least-squares slope of the measure over arms (over log2 x with `log2`), one slope a replicate; as
  `greater` with `sign` times the slope;
- `spread`: the standard deviation over replicates is above `least`; by the 95 % interval from the chi-squared
  distribution;
- `paper`: of the paper's own numbers, which have no interval: left - right is above `least` (or with
  `margin` within that), or not;
- `confirmatory`: the verdict of that claim; with `opposite` supported and contradicted change places, for a statement
  that the claim, if supported, refutes.

insufficient: everything else, and fewer replicates than `replicates`. A replicate that lacks a measure, as one without
wrong labels has none of wrong labels, does not count; how many do is said. out of reach: what a
miniature cannot say, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError, model_validator
from scipy import stats as scipy_stats

from analysis.arms import Planned, Seeds, read_arms, runs_of
from analysis.claims import preregistered, read_claims, refuse_twice
from analysis.load import Study, rows_of
from analysis.measures import Measurements, Quantity
from analysis.paper import Own, value_of
from ttrl_repro import laboratory
from ttrl_repro.config import describe
from ttrl_repro.errors import UserError
from ttrl_repro.parts import Strict
from ttrl_repro.stats import LEVEL, replicates_interval
from ttrl_repro.yaml_files import read_yaml

PATH = Path(__file__).with_name("findings.yaml")
SUPPORTED, CONTRADICTED, INSUFFICIENT, OUT_OF_REACH = "supported", "contradicted", "insufficient", "out of reach"
OPPOSITE = {SUPPORTED: CONTRADICTED, CONTRADICTED: SUPPORTED}
REPLICATES = 3
SOURCES = ("paper", "critics", "consistency")  # the last: of the paper's own numbers with one another


class Greater(Strict):
    """left - right is above `least`; without `right` left alone. Of several quantities on a side, their mean."""

    kind: Literal["greater"]
    left: Quantity | tuple[Quantity, ...]
    right: Quantity | tuple[Quantity, ...] | None = None
    least: float = 0.0


class Equivalent(Strict):
    """left - right is within +-margin."""

    kind: Literal["equivalent"]
    left: Quantity
    right: Quantity
    margin: float = Field(gt=0)


class Trend(Strict):
    """The measure rises (`sign: 1`) or falls (-1) over arms, given as arm -> x."""

    kind: Literal["trend"]
    arms: dict[str, float] = Field(min_length=3)
    measure: str
    at: str = "end"
    log2: bool = False
    sign: Literal[1, -1] = 1

    @model_validator(mode="after")
    def _measured(self) -> Trend:
        self.quantities()
        return self

    def quantities(self) -> list[Quantity]:
        """What is measured of every arm."""
        return [Quantity.model_validate({"arm": arm, "measure": self.measure, "at": self.at}) for arm in self.arms]


class Spread(Strict):
    """The standard deviation over an arm's replicates is above `least`."""

    kind: Literal["spread"]
    of: Quantity
    least: float = Field(gt=0)


class Paper(Strict):
    """left - right of the paper's own numbers, in percent points, is above `least`; or within +-margin."""

    kind: Literal["paper"]
    left: Own
    right: Own | float
    least: float = 0.0
    margin: float | None = Field(None, gt=0)


class Confirmatory(Strict):
    """A claim of claims.yaml, or its opposite."""

    kind: Literal["confirmatory"]
    claim: str
    opposite: bool = False


Comparison = Annotated[
    Greater | Equivalent | Trend | Spread | Paper | Confirmatory,
    Field(discriminator="kind"),
]


class Finding(Strict):
    """A claim: who says so and where, what the paper's number is, and how it is judged, or why it cannot be."""

    key: str = Field(pattern=r"^[a-z0-9-]+$")
    source: Literal["paper", "critics", "consistency"]
    where: str = Field(min_length=1)
    statement: str = Field(min_length=1)
    number: str = ""
    evidence: tuple[Comparison, ...] = ()
    replicates: int = Field(REPLICATES, ge=2)
    out_of_reach: str = ""

    @model_validator(mode="after")
    def _judged_or_not(self) -> Finding:
        if bool(self.evidence) == bool(self.out_of_reach):
            raise ValueError("give evidence, or say why it is out_of_reach")
        return self


class Findings(Strict):
    """The content of a findings file."""

    findings: tuple[Finding, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _different_keys(self) -> Findings:
        refuse_twice([finding.key for finding in self.findings])
        return self


@dataclass(frozen=True)
class Judged:
    """A comparison's outcome. low, high: NaN where there is no interval. n: replicates, 0 of the paper's numbers."""

    what: str
    n: int
    value: float
    low: float
    high: float
    verdict: str


def confirmed(study: Study) -> dict[str, Judged]:
    """The verdict of every confirmatory claim, for findings; insufficient, with the reason, where none can be given."""
    found = {}
    try:
        for row in rows_of(preregistered(study).verdicts):
            what = f"preregistered claim {row['key']}, {row['reason']}, p (Holm) = {row['p_holm']:.3f}"
            found[row["key"]] = Judged(what, row["n"], row["mean"], row["low"], row["high"], row["verdict"])
    except UserError as error:
        for claim in read_claims():
            what = f"preregistered claim {claim.key}, not judged: {error}"
            found[claim.key] = Judged(what, 0, np.nan, np.nan, np.nan, INSUFFICIENT)
    return found


def read_findings(path: Path = PATH, arms: Mapping[str, Planned] | None = None) -> tuple[Finding, ...]:
    """The findings of a file. Raises UserError naming file, finding and field, also for an arm that there is not."""
    try:
        findings = Findings.model_validate(read_yaml(path, "findings")).findings
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error, Findings)}") from error
    known = read_arms() if arms is None else arms
    for finding in findings:
        for comparison in finding.evidence:
            for quantity in quantities_of(comparison):
                if quantity.arm not in known:
                    raise UserError(f"{path}: finding {finding.key}: no arm {quantity.arm!r} (analysis/arms.yaml)")
    return findings


def quantities_of(comparison: Comparison) -> list[Quantity]:
    """What a comparison measures of runs."""
    if isinstance(comparison, Greater):
        return [*_side(comparison.left), *_side(comparison.right)]
    if isinstance(comparison, Equivalent):
        return [comparison.left, comparison.right]
    if isinstance(comparison, Trend):
        return comparison.quantities()
    return [comparison.of] if isinstance(comparison, Spread) else []


def _side(side: Quantity | tuple[Quantity, ...] | None) -> tuple[Quantity, ...]:
    return () if side is None else (side,) if isinstance(side, Quantity) else side


class Judge:
    """Judges findings on a study. claims: the verdict of every confirmatory claim, by its key."""

    def __init__(self, study: Study, arms: Mapping[str, Planned], claims: Mapping[str, Judged]) -> None:
        self._measurements = Measurements(study)
        self._claims = claims
        self._runs = runs_of(study, arms)

    def values(self, quantity: Quantity) -> dict[Seeds, float]:
        """A quantity of every replicate of its arm that has it."""
        values = {}
        for seeds, run in self._runs[quantity.arm].items():
            try:
                value = self._measurements.of(run, quantity)
            except UserError:  # absent, not zero: the number of replicates that is reported says so
                continue
            if np.isfinite(value):
                values[seeds] = value
        return values

    def judge(self, finding: Finding) -> tuple[str, list[Judged]]:
        """The verdict of a finding, and of its comparisons."""
        if finding.out_of_reach:
            return OUT_OF_REACH, []
        judged = [self._compare(comparison, finding.replicates) for comparison in finding.evidence]
        verdicts = {one.verdict for one in judged}
        if CONTRADICTED in verdicts:
            return CONTRADICTED, judged
        return (SUPPORTED if verdicts == {SUPPORTED} else INSUFFICIENT), judged

    def _compare(self, comparison: Comparison, replicates: int) -> Judged:
        if isinstance(comparison, Confirmatory):
            if comparison.claim not in self._claims:
                raise UserError(f"no confirmatory claim {comparison.claim!r}")
            found = self._claims[comparison.claim]
            if not comparison.opposite:
                return found
            return replace(
                found, what=f"{found.what}; here its opposite", verdict=OPPOSITE.get(found.verdict, found.verdict)
            )
        if isinstance(comparison, Paper):
            return _of_the_paper(comparison)
        if isinstance(comparison, Spread):
            return self._spread(comparison, replicates)
        if isinstance(comparison, Trend):
            values, what = self._slopes(comparison), _trend_label(comparison)
            return judged_above(what, values, 0.0, replicates)
        left, right = _side(comparison.left), _side(comparison.right)
        differences = self._differences(left, right)
        what = " - ".join(_mean_label(side) for side in (left, right) if side)
        if isinstance(comparison, Greater):
            return judged_above(f"{what}{_above(comparison.least)}", differences, comparison.least, replicates)
        return judged_within(f"{what} within {comparison.margin:g}", differences, comparison.margin, replicates)

    def _differences(self, left: tuple[Quantity, ...], right: tuple[Quantity, ...]) -> np.ndarray:
        columns = {quantity: self.values(quantity) for quantity in (*left, *right)}
        shared = sorted(set.intersection(*(set(column) for column in columns.values())))
        return np.array(
            [
                np.mean([columns[one][seeds] for one in left])
                - (np.mean([columns[one][seeds] for one in right]) if right else 0.0)
                for seeds in shared
            ]
        )

    def _slopes(self, trend: Trend) -> np.ndarray:
        xs = np.array(list(trend.arms.values()))
        xs = np.log2(xs) if trend.log2 else xs
        columns = [self.values(quantity) for quantity in trend.quantities()]
        shared = sorted(set.intersection(*(set(column) for column in columns)))
        return np.array([trend.sign * np.polyfit(xs, [column[seeds] for column in columns], 1)[0] for seeds in shared])

    def _spread(self, spread: Spread, replicates: int) -> Judged:
        values = np.array(list(self.values(spread.of).values()))
        what, n = f"SD of {spread.of.label()} > {spread.least:g}", len(values)
        if n < replicates:
            return _too_few(what, n, replicates, float(values.std(ddof=1)) if n > 1 else np.nan)
        sd = float(values.std(ddof=1))
        tail = (1 - LEVEL) / 2
        low, high = (sd * np.sqrt((n - 1) / scipy_stats.chi2.ppf(q, n - 1)) for q in (1 - tail, tail))
        return Judged(what, n, sd, float(low), float(high), _beyond(float(low), float(high), spread.least))


def _above(least: float) -> str:
    return f" > {least:g}"


def _mean_label(side: tuple[Quantity, ...]) -> str:
    labels = ", ".join(quantity.label() for quantity in side)
    return labels if len(side) == 1 else f"mean of {labels}"


def _of_the_paper(comparison: Paper) -> Judged:
    given = comparison.right
    right, named = (given, f"{given:g}") if isinstance(given, float) else (value_of(given), given.label())
    value = value_of(comparison.left) - right
    if comparison.margin is None:
        bound, holds = _above(comparison.least), value > comparison.least
    else:
        bound, holds = f" within {comparison.margin:g}", abs(value) <= comparison.margin
    what = f"paper: {comparison.left.label()} - {named}{bound}"
    return Judged(what, 0, value, np.nan, np.nan, SUPPORTED if holds else CONTRADICTED)


def _trend_label(trend: Trend) -> str:
    over = ", ".join(f"{x:g}" for x in trend.arms.values())
    direction = "rises" if trend.sign > 0 else "falls"
    return f"{trend.measure} {direction} over {over}{' (log2)' if trend.log2 else ''}: slope > 0"


def _too_few(what: str, n: int, replicates: int, value: float = np.nan) -> Judged:
    return Judged(f"{what} ({n} of {replicates} replicates)", n, value, np.nan, np.nan, INSUFFICIENT)


def _beyond(low: float, high: float, least: float) -> str:
    return SUPPORTED if low > least else CONTRADICTED if high < least else INSUFFICIENT


def judged_above(what: str, values: np.ndarray, least: float, replicates: int) -> Judged:
    """The verdict of `greater` on a value a replicate, (replicates,)."""
    n = len(values)
    if n < replicates:
        return _too_few(what, n, replicates, float(values.mean()) if n else np.nan)
    found = replicates_interval(values)
    return Judged(what, n, found.value, found.low, found.high, _beyond(found.low, found.high, least))


def judged_within(what: str, values: np.ndarray, margin: float, replicates: int) -> Judged:
    """The verdict of `equivalent` on a value a replicate, (replicates,)."""
    n = len(values)
    if n < replicates:
        return _too_few(what, n, replicates, float(values.mean()) if n else np.nan)
    found = replicates_interval(values, 0.90)
    inside = -margin < found.low and found.high < margin
    outside = found.low > margin or found.high < -margin
    verdict = SUPPORTED if inside else CONTRADICTED if outside else INSUFFICIENT
    return Judged(what, n, found.value, found.low, found.high, verdict)


COLUMNS = ["key", "source", "where", "statement", "number", "verdict", "what", "n", "value", "low", "high", "of_it"]


def table(judge: Judge, findings: Sequence[Finding]) -> pd.DataFrame:
    """A row per comparison, COLUMNS; `of_it` is the comparison's own verdict. One row for what is out of reach."""
    rows: list[list[object]] = []
    for finding in findings:
        verdict, judged = judge.judge(finding)
        head = [finding.key, finding.source, finding.where, finding.statement, finding.number, verdict]
        if not judged:
            rows.append([*head, finding.out_of_reach, 0, np.nan, np.nan, np.nan, verdict])
        for one in judged:
            rows.append([*head, one.what, one.n, one.value, one.low, one.high, one.verdict])
    return pd.DataFrame(rows, columns=COLUMNS)


def changed() -> str | None:
    """That the criteria are not those of the freeze; None if they are."""
    frozen = laboratory.read()
    if laboratory.findings_hash() == frozen.findings:
        return None
    return f"The criteria of the findings, or the arms, were changed since the freeze {frozen.tag}."


def markdown(found: pd.DataFrame) -> str:
    """A row per finding: who says what, the paper's number, the verdict, and the evidence with its intervals."""
    note = changed()
    lines = [note, ""] if note else []
    for source in SOURCES:
        part = found[found["source"] == source]
        if part.empty:
            continue
        lines += [f"### {source[0].upper()}{source[1:]}", ""]
        lines += ["| claim | where | their number | verdict | evidence here |", "|---" * 5 + "|"]
        for _, group in part.groupby("key", sort=False):
            first = group.iloc[0]
            evidence = "; ".join(_evidence(row) for row in rows_of(group))
            lines.append(
                f"| {first['statement']} | {first['where']} | {first['number']} | **{first['verdict']}** | {evidence} |"
            )
        lines.append("")
    return "\n".join(lines)


def _evidence(row: Mapping[str, Any]) -> str:
    if np.isnan(row["value"]):
        return str(row["what"])
    interval = "" if np.isnan(row["low"]) else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    count = f", n = {row['n']}" if row["n"] else ""
    return f"{row['what']}: {row['value']:+.3f}{interval}{count}"
