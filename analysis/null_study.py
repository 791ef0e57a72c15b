"""How often the claims' pipeline errs: simulated studies whose truth is known, from records on disk to verdicts.

    python -m analysis.null_study [--studies 200] [--workers 2]

Every simulated study is written by the record's own writer, with all arms of claims.yaml, REPLICATES each, then loaded
and judged as the real one is. In a *null study* both sides of every claim have one expectation, replicate by replicate,
though replicates differ as real ones do. In a *planted* one some sides are shifted by a known amount.

**How the null is made.** Answers of a real model would not do: avg, maj and a maximum over temperatures differ in
expectation whenever anything varies. So the values of the measures are drawn first, and answers are then made that have
exactly these values (`codes_for`). A replicate draws for each of its sets, shared by its arms,

- the level of its questions, 7 to 11 of QUESTIONS (draws differ in difficulty),
- the size of its noise, sd .02 to .05 (replicates differ in spread),
- what training does to avg there, -.05 to .05 (a draw may gain or lose; the mean is 0);

and each value is level (+ training) + noise, with noise of its own, symmetric about 0, rounded to what answers can
have: 1 / (QUESTIONS x SAMPLES) for avg and base_best_avg, 1 / QUESTIONS for base_best_maj; likewise base_pass and pass
about 19 of QUESTIONS, and label accuracies about a level of .3 to .6. Given what its replicate shares, a difference of
two measures of one group is a sum of independent variables, each symmetric about 0, so it is symmetric about 0 as well:
the exact null of the sign-flip test, with unequal variances, ties, and dependence among claims (they share measures,
bases and replicates). The base's temperature that is best for avg, and for maj, is drawn too: the maxima must choose.
Greedy, which counts among them, is made to lie at or below the drawn maximum.

**At the edge.** In the study `edge` every `greater` claim has an effect of exactly its smallest_effect. There the
verdict "contradicted" is wrong, and at most 2.5 % per claim are promised. An effect that is no whole number of answers
is rounded up or down at random, with its size as expectation.

**What this cannot show.** The null is symmetric *by construction*: that the sign-flip test keeps its level under it
checks the pipeline, and is no evidence that real differences are symmetric. Two ways in which they are not are left
out. The *winner's curse* of base_best_avg and base_best_maj: a real maximum over several measurements lies above what
the same base would show on new samples, whereas here the maximum itself is drawn around the level. In truth claims
against these measures are conservative where they end supported, and anti-conservative where they end contradicted by
the interval (more than 2.5 % at the edge). And *skew*: when training fails in a few replicates and gains a little in
the others, mean, t interval and signs tell different stories; then neither the sign-flip test's level nor the
interval's 2.5 % is promised. The sizes of effects and noise are guesses at real ones, too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from scipy import stats as scipy_stats

from analysis.claims import LAST_STEPS, Claim, Quantity, evaluate_claims, judge, read_claims, seeds_of
from analysis.load import load
from ttrl_repro import laboratory
from ttrl_repro.config import Experiment
from ttrl_repro.records import Record, Row
from ttrl_repro.replicate_tests import ALPHA
from ttrl_repro.seeds import generator

REPLICATES = 10
QUESTIONS, SAMPLES = 20, 7
STEPS = 1 + LAST_STEPS
TEMPERATURES = (0.6, 1.0)  # the first is the evaluation temperature
# Measures with one expectation under the null; a claim must compare two of one group.
GROUPS = (
    {"base_best_avg", "base_best_maj", "avg"},
    {"base_pass", "pass"},
    {"first_label_accuracy", "last_label_accuracy"},
)
Side = tuple[str, str, str]  # arm, measure, split
Effects = Mapping[Side, float]
# Large effects of both signs, and about half of them, for the study's own claims.
PLANTED: dict[Side, float] = {
    ("confirm-majority", "avg", "train"): 11 / (QUESTIONS * SAMPLES),
    ("confirm-majority", "avg", "fresh"): -11 / (QUESTIONS * SAMPLES),
    ("confirm-majority", "pass", "train"): -2 / QUESTIONS,
    ("confirm-loss-mix", "last_label_accuracy", "train"): -0.1,
}
HALVED: dict[Side, float] = {
    ("confirm-majority", "avg", "train"): 5 / (QUESTIONS * SAMPLES),
    ("confirm-majority", "avg", "fresh"): -5 / (QUESTIONS * SAMPLES),
    ("confirm-majority", "pass", "train"): -1 / QUESTIONS,
    ("confirm-loss-mix", "last_label_accuracy", "train"): -0.05,
}
# Exactly the smallest effect of every claim, as differences of sides that share arms.
EDGE: dict[Side, float] = {
    ("confirm-majority", "avg", "train"): 0.05,
    ("confirm-majority", "base_best_maj", "train"): 0.03,
    ("confirm-frozen", "avg", "train"): 0.03,
    ("confirm-oracle", "avg", "train"): 0.10,
    ("confirm-majority", "avg", "fresh"): 0.02,
    ("confirm-majority", "pass", "train"): -0.02,
    ("confirm-loss-mix", "last_label_accuracy", "train"): -0.02,
}
SCENARIOS: dict[str, Effects] = {"null": {}, "planted": PLANTED, "halved": HALVED, "edge": EDGE}


@dataclass(frozen=True)
class Base:
    """What the arms of a replicate share in one set, in right samples, right votes and questions passed.

    best_avg, best_maj: the index in TEMPERATURES at which avg and maj are highest; lower_avg, lower_maj: the values at
    the other one.
    """

    avg: int
    maj: int
    passed: int
    best_avg: int
    best_maj: int
    lower_avg: int
    lower_maj: int


@dataclass(frozen=True)
class Outcome:
    """What training one arm on a replicate ends with in one set, in right samples and questions passed."""

    avg: int
    passed: int


@dataclass(frozen=True)
class Simulated:
    """The values of a study: bases by (replicate, split); outcomes by (arm, replicate, split); first and last label
    accuracy by (arm, replicate)."""

    bases: Mapping[tuple[int, str], Base]
    outcomes: Mapping[tuple[str, int, str], Outcome]
    labels: Mapping[tuple[str, int], tuple[float, float]]

    def value(self, side: Quantity, replicate: int) -> float:
        """A measure's value in a replicate."""
        base = self.bases[replicate, side.split]
        outcome = self.outcomes[side.arm, replicate, side.split]
        first, last = self.labels[side.arm, replicate]
        return {
            "base_best_avg": base.avg / (QUESTIONS * SAMPLES),
            "base_best_maj": base.maj / QUESTIONS,
            "base_pass": base.passed / QUESTIONS,
            "avg": outcome.avg / (QUESTIONS * SAMPLES),
            "pass": outcome.passed / QUESTIONS,
            "first_label_accuracy": first,
            "last_label_accuracy": last,
        }[side.measure]

    def differences(self, claim: Claim) -> np.ndarray:
        """left - right of every replicate, (REPLICATES,)."""
        return np.array([self.value(claim.left, r) - self.value(claim.right, r) for r in range(REPLICATES)])


def arms_of(claims: Sequence[Claim]) -> dict[str, list[str]]:
    """The claims' arms, with the sets (splits) that they are evaluated on.

    Raises ValueError for a claim that compares measures whose expectations differ under the null.
    """
    arms: dict[str, list[str]] = {}
    for claim in claims:
        measures = {claim.left.measure, claim.right.measure}
        if not any(measures <= group for group in GROUPS) or {claim.left.task, claim.right.task} != {"trained"}:
            raise ValueError(f"claim {claim.key}: no null is known for {' and '.join(sorted(measures))} of its tasks")
        for side in (claim.left, claim.right):
            splits = arms.setdefault(side.arm, ["train"])
            if side.split not in splits:
                splits.append(side.split)
    return arms


def simulate(claims: Sequence[Claim], effects: Effects, rng: np.random.Generator) -> Simulated:
    """Draw a study's values (module's docstring).

    Raises ValueError for an effect on what no claim looks at, or on a measure of the base other than base_best_maj.
    """
    sides = {(side.arm, side.measure, side.split) for claim in claims for side in (claim.left, claim.right)}
    unknown = [effect for effect in effects if effect not in sides]
    if unknown:
        raise ValueError(f"no claim looks at {unknown[0]}")
    if any(measure in ("base_best_avg", "base_pass") for _, measure, _ in effects):
        raise ValueError("of the base's measures only base_best_maj can have an effect")
    arms = arms_of(claims)
    bases: dict[tuple[int, str], Base] = {}
    outcomes: dict[tuple[str, int, str], Outcome] = {}
    labels: dict[tuple[str, int], tuple[float, float]] = {}
    samples = QUESTIONS * SAMPLES
    for replicate in range(REPLICATES):
        for split in ("train", "fresh"):
            level, sd = int(rng.integers(7, 12)), float(rng.uniform(0.02, 0.05))
            training = int(rng.integers(-7, 8))

            def noise(unit: int, most: int, sd: float = sd) -> int:
                # Rounding and clipping are symmetric, so the noise stays symmetric about 0.
                return int(np.clip(np.rint(rng.normal(0, sd) * unit), -most, most))

            avg, maj = level * SAMPLES + noise(samples, 10), level + noise(QUESTIONS, 1)
            maj += _whole(_of_the_base(effects, "base_best_maj", split) * QUESTIONS, rng)
            bases[replicate, split] = Base(
                avg,
                maj,
                passed=19 + noise(QUESTIONS, 1),
                best_avg=int(rng.integers(2)),
                best_maj=int(rng.integers(2)),
                lower_avg=avg - int(rng.integers(1, 15)),
                lower_maj=maj - 1,
            )
            for arm in arms:
                shift, narrowing = (
                    _whole(effects.get((arm, measure, split), 0.0) * unit, rng)
                    for measure, unit in (("avg", samples), ("pass", QUESTIONS))
                )
                outcomes[arm, replicate, split] = Outcome(
                    level * SAMPLES + training + noise(samples, 10) + shift, 19 + noise(QUESTIONS, 1) + narrowing
                )
        label = float(rng.uniform(0.3, 0.6))
        for arm in arms:
            first, last = (
                label + float(np.clip(rng.normal(0, 0.035), -0.1, 0.1)) + effects.get((arm, measure, "train"), 0.0)
                for measure in ("first_label_accuracy", "last_label_accuracy")
            )
            labels[arm, replicate] = first, last
    return Simulated(bases, outcomes, labels)


def _whole(amount: float, rng: np.random.Generator) -> int:
    """A whole number with this expectation; only a fraction is left to chance."""
    whole, fraction = divmod(round(amount, 9), 1)
    return int(whole) + (bool(fraction) and bool(rng.random() < fraction))


def _of_the_base(effects: Effects, measure: str, split: str) -> float:
    """The effect on a measure of the base, which all arms share: whichever arm it is written down for."""
    return sum(effect for (_, *where), effect in effects.items() if where == [measure, split])


def codes_for(right: int, majority: int, passed: int, rng: np.random.Generator) -> np.ndarray:
    """codes_QN (QUESTIONS, SAMPLES) with exactly so many right samples, questions right by vote, and questions passed.

    Where the vote is right the other samples all differ (or abstain, beside a single right one); where it is wrong they
    agree. Raises ValueError if no such answers exist.
    """
    order, most = rng.permutation(QUESTIONS), np.zeros(QUESTIONS, dtype=int)
    most[order[:passed]] = (SAMPLES - 1) // 2  # right samples that leave the vote wrong
    most[order[:majority]] = SAMPLES
    counts = (most > 0).astype(int)
    room = np.repeat(np.arange(QUESTIONS), np.maximum(most - 1, 0))
    if not 0 <= majority <= passed <= QUESTIONS or not 0 <= right - passed <= len(room):
        raise ValueError(f"no answers have {right} right samples, {majority} right votes and {passed} questions passed")
    counts += np.bincount(rng.permutation(room)[: right - passed], minlength=QUESTIONS)
    sample = np.arange(SAMPLES)
    rivals_QN = np.where((most == SAMPLES)[:, None], sample, 1)
    rivals_QN[(most == SAMPLES) & (counts == 1)] = -1
    return np.where(sample < counts[:, None], 0, rivals_QN)


def study_folders(folder: Path, claims: Sequence[Claim]) -> dict[tuple[str, int], Record]:
    """Empty records of all arms and replicates, in `folder`/ARM/rR, of the frozen laboratory by their manifests.

    Of an installed package, so that no commit is asked for.
    """
    frozen, records = laboratory.read(), {}
    for number, (arm, splits) in enumerate(arms_of(claims).items()):
        for replicate in range(REPLICATES):
            base, draw, rl = seeds_of(replicate)
            experiment = Experiment.model_validate(
                {
                    "name": arm,
                    "task": "mini-30",
                    "model": "mini-s",
                    # Arms must be different cells; by what they differ is of no concern here.
                    "train": {"steps": STEPS, "learning_rate": 1e-5 * (number + 1)},
                    "evaluate": {
                        "k": SAMPLES,
                        "votes": SAMPLES,
                        "temperature": TEMPERATURES[0],
                        "base_temperatures": TEMPERATURES,
                        "fresh": "fresh" in splits,
                    },
                    "seeds": {"base": base, "draw": draw, "rl": rl},
                }
            )
            facts = {
                "model": {
                    "name": "mini-s",
                    "weights": frozen.weights.get(f"mini-s-seed{base}", f"not shipped, seed {base}"),
                    "recipe": frozen.recipes["mini-s"],
                },
                "laboratory": frozen.content_hash(),
                "task": {"name": "mini-30", "questions": QUESTIONS, "fingerprint": f"draw {replicate}"},
            }
            record = Record.create(folder / arm / f"r{replicate}", experiment, facts)
            record.manifest["git"] = None
            records[arm, replicate] = record
    return records


def write_study(
    records: Mapping[tuple[str, int], Record],
    claims: Sequence[Claim],
    simulated: Simulated,
    rng: np.random.Generator,
) -> None:
    """Fill `study_folders`, in place of an earlier study, with records of these values."""
    arms = arms_of(claims)
    for (arm, replicate), record in records.items():
        record.rewind(-1)
        first, last = simulated.labels[arm, replicate]
        wobble = 0.01 * (rng.permutation(LAST_STEPS) - (LAST_STEPS - 1) / 2)  # of mean 0
        for step, accuracy in enumerate([first, *(last + wobble)], start=1):
            record.append("metrics.jsonl", {"step": step, "label_accuracy": float(accuracy), "majority_ratio": 0.5})
        rows: dict[int, list[Row]] = {0: [], STEPS: []}
        for split in arms[arm]:
            for (step, temperature), codes_QN in _tables(simulated, arm, replicate, split).items():
                rows[step] += _rows(step, temperature, split, replicate, codes_QN)
        for step, of_step in rows.items():
            record.write_eval(step, of_step)
        record.manifest["steps_done"] = STEPS
        record.close("finished")


def _tables(simulated: Simulated, arm: str, replicate: int, split: str) -> dict[tuple[int, float], np.ndarray]:
    """codes_QN by step and temperature of one run in one set; the base's are the same for all arms of a replicate."""
    base, outcome = simulated.bases[replicate, split], simulated.outcomes[arm, replicate, split]
    tables: dict[tuple[int, float], np.ndarray] = {}
    rng = generator("base answers", replicate, split, base.avg, base.maj, base.passed)
    for index, temperature in enumerate(TEMPERATURES):
        avg = base.avg if index == base.best_avg else base.lower_avg
        maj = base.maj if index == base.best_maj else base.lower_maj
        tables[0, temperature] = codes_for(avg, maj, base.passed if index == 0 else 19, rng)
    rng = generator("answers", arm, replicate, split, outcome.avg, outcome.passed)
    tables[STEPS, TEMPERATURES[0]] = codes_for(outcome.avg, round(outcome.avg / SAMPLES), outcome.passed, rng)
    # Greedy answers: as many questions right as are surely no more than the base's best avg, which is to stay the best.
    tables[0, 0.0] = (np.arange(QUESTIONS) >= base.avg // SAMPLES)[:, None].astype(int)
    tables[STEPS, 0.0] = tables[STEPS, TEMPERATURES[0]][:, :1]
    return tables


def _rows(step: int, temperature: float, split: str, replicate: int, codes_QN: np.ndarray) -> list[dict[str, Any]]:
    """Rows of `records.EVAL`: key "0" is right, None abstains."""
    shared = {
        "step": step,
        "task": "mini-30",
        "split": split,
        "protocol": "sampled" if temperature else "greedy",
        "temperature": temperature,
        "top_p": 0.95 if temperature else 1.0,
        "gold_key": "0",
        "tokens": 1,
        "finished": True,
    }
    rows = []
    for question, codes in enumerate(codes_QN.tolist()):
        identifier = f"mini-30/{replicate}/{split}/{question:03d}"
        for sample, code in enumerate(codes):
            key = None if code < 0 else str(code)
            rows.append({**shared, "question_id": identifier, "sample": sample, "answer": key, "key": key})
    return rows


def truth(claims: Sequence[Claim], effects: Effects) -> dict[str, float]:
    """The expectation of left - right of every claim, by key."""

    def shift(side: Quantity) -> float:
        if side.measure.startswith("base_"):
            return _of_the_base(effects, side.measure, side.split)
        return effects.get((side.arm, side.measure, side.split), 0.0)

    return {claim.key: shift(claim.left) - shift(claim.right) for claim in claims}


def judge_values(claims: Sequence[Claim], scenario: str, numbers: Iterable[int]) -> pd.DataFrame:
    """Verdicts of the studies with these numbers on their values alone, without records: as `judge`, with `study`."""
    tables = []
    for number in numbers:
        simulated = simulate(claims, SCENARIOS[scenario], generator("null study", scenario, number))
        tables.append(judge(claims, [simulated.differences(claim) for claim in claims]).assign(study=number))
    return pd.concat(tables, ignore_index=True)


def judge_records(claims: Sequence[Claim], scenario: str, numbers: Iterable[int]) -> pd.DataFrame:
    """The same verdicts from records on disk: written, loaded and evaluated study by study."""
    # The writer syncs every line to the disk; in memory that costs nothing.
    memory = Path("/dev/shm")
    tables = []
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        records = study_folders(Path(folder), claims)
        for number in numbers:
            rng = generator("null study", scenario, number)
            write_study(records, claims, simulate(claims, SCENARIOS[scenario], rng), rng)
            tables.append(evaluate_claims(load(folder, frozen=True), claims, None).assign(study=number))
    return pd.concat(tables, ignore_index=True)


def contradicted_at_the_edge(verdicts: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Of every `greater` claim: in how many `edge` studies it ends contradicted, and of how many."""
    of_kind = verdicts[verdicts["kind"] == "greater"]
    wrong = (of_kind["verdict"] == "contradicted").groupby(of_kind["key"], sort=False)
    return {str(key): (int(each.sum()), len(each)) for key, each in wrong}


def false_positives(verdicts: pd.DataFrame) -> tuple[int, int]:
    """In how many null studies the null of any `greater` claim is rejected after Holm, either way; and of how many."""
    wrong = (verdicts["kind"] == "greater") & (verdicts["p_holm"] < ALPHA)
    return int(wrong.groupby(verdicts["study"]).any().sum()), verdicts["study"].nunique()


def summary(claims: Sequence[Claim], scenario: str, verdicts: pd.DataFrame) -> pd.DataFrame:
    """A row per claim: key, truth, mean of the estimates, share of studies with raw p < .05, share of each verdict."""
    expected = truth(claims, SCENARIOS[scenario])
    rows = []
    for claim in claims:
        mine = verdicts[verdicts["key"] == claim.key]
        shares = [float((mine["verdict"] == name).mean()) for name in ("supported", "contradicted", "insufficient")]
        rows.append([claim.key, expected[claim.key], mine["mean"].mean(), (mine["p"] < ALPHA).mean(), *shares])
    columns = ["key", "truth", "mean", "p_below_alpha", "supported", "contradicted", "insufficient"]
    return pd.DataFrame(rows, columns=columns)


def main(
    studies: Annotated[int, typer.Option(min=1, help="null studies; of each planted kind a quarter as many")] = 200,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 2,
) -> None:
    """Run simulated studies through the whole pipeline and print how often it errs."""
    claims = read_claims()
    with ProcessPoolExecutor(workers) as pool:
        for scenario in SCENARIOS:
            count = studies if scenario == "null" else max(studies // 4, 1)
            shares = [range(start, count, workers) for start in range(min(workers, count))]
            parts = pool.map(judge_records, [claims] * len(shares), [scenario] * len(shares), shares)
            verdicts = pd.concat(parts, ignore_index=True)
            print(f"{scenario}: {count} studies of {len(arms_of(claims))} arms x {REPLICATES} replicates")
            if scenario == "null":
                wrong, n = false_positives(verdicts)
                interval = scipy_stats.binomtest(wrong, n).proportion_ci(0.95, method="wilson")
                print(
                    f"family-wise false positives: {wrong} of {n} = {wrong / n:.3f}, "
                    f"95 % Wilson interval [{interval.low:.3f}, {interval.high:.3f}]; at most {ALPHA} is promised"
                )
            if scenario == "edge":
                wrongly = [f"{key} {n} of {of}" for key, (n, of) in contradicted_at_the_edge(verdicts).items()]
                print(f"contradicted at the smallest effect: {', '.join(wrongly)}; at most .025 per claim is promised")
            print(summary(claims, scenario, verdicts).to_string(index=False, float_format="{:.3f}".format) + "\n")


if __name__ == "__main__":
    typer.run(main)
