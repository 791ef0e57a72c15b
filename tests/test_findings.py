"""Arms, measures of runs, and the rules by which findings are judged."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from analysis import load
from analysis.arms import read_arms, runs_of
from analysis.claims import read_claims
from analysis.findings import (
    CONTRADICTED,
    INSUFFICIENT,
    OUT_OF_REACH,
    SUPPORTED,
    Confirmatory,
    Findings,
    Judge,
    Judged,
    changed,
    judged_above,
    judged_within,
    markdown,
    read_findings,
    table,
)
from analysis.measures import EVALUATED, Measurements, Pair, Quantity, Samples, decomposition
from analysis.paper import Curve, Number, Relative, value_of
from tests.test_claims import TABLES, write_answers
from ttrl_repro.config import Seeds
from ttrl_repro.errors import UserError
from ttrl_repro.sweeps.files import read_sweep

RECORD = {
    (0, 0.0): TABLES[0, 0.0],
    (0, 0.6): TABLES[0, 0.6],
    (3, 0.0): [[1], [1]],
    (3, 0.6): [[0, 0, 0, 0], [0, 0, 1, 1]],  # avg@2 1, the peak
    (6, 0.0): TABLES[6, 0.0],
    (6, 0.6): TABLES[6, 0.6],
}


def samples(codes_QN, finished_QN=None, tokens=3.0):
    """Samples with these codes (-1: no answer); all end by themselves unless said otherwise."""
    codes = np.array(codes_QN)
    finished = np.ones_like(codes, dtype=bool) if finished_QN is None else np.array(finished_QN, dtype=bool)
    return Samples(codes, finished, np.full(codes.shape, tokens))


# Three questions, of which the first two samples count (k = 2) and the other four sort: on question 0 they agree and
# are right, on 1 they agree and are wrong, on 2 they are divided and the vote is wrong.
PAIR = Pair(
    base=samples(
        [[0, 1, 0, 0, 0, 1], [1, 1, 1, 1, 1, 0], [-1, -1, 0, 1, 2, 2]],
        [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]],
        tokens=5.0,
    ),
    end=samples([[0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]], tokens=4.0),
    base_greedy=samples([[0], [1], [0]]),
    end_greedy=samples([[0], [0], [1]]),
    k=2,
    base_best_avg=0.4,
)
BY_HAND = {
    # Right among the first two: base 1, 0, 0 of 2; end 2, 0, 1 of 2.
    "gain": 3 / 6 - 1 / 6,
    "net_gain": 3 / 6 - 0.4,
    "tokens": 4.0,
    "base_tokens": 5.0,
    # Base 5 of 6 come to an end or an answer, 4 of these answer, 1 of these is right; at the end 6, 6, 3.
    "termination_part": decomposition((5 / 6, 4 / 5, 1 / 4), (1.0, 1.0, 1 / 2))[0],
    "format_part": decomposition((5 / 6, 4 / 5, 1 / 4), (1.0, 1.0, 1 / 2))[1],
    "form_part": sum(decomposition((5 / 6, 4 / 5, 1 / 4), (1.0, 1.0, 1 / 2))[:2]),
    "reasoning_part": decomposition((5 / 6, 4 / 5, 1 / 4), (1.0, 1.0, 1 / 2))[2],
    "learned": 1 / 3,  # question 1
    "corrupted": 1 / 3,  # question 2
    "learned_divided": 0.0,
    "corrupted_divided": 1.0,
    "gain_agreed": (0.5 + 0.0) / 2,
    "gain_divided": 0.5,
    "solvable_part": 0.5 / 3,
    "unsolvable_part": 0.5 / 3,
}


# -- arms ------------------------------------------------------------------------------------------


@pytest.fixture
def arms_file(tmp_path, experiment):
    """Three arms of a file: as it is, with other votes, and on another task."""
    (tmp_path / "e.yaml").write_text(experiment.to_yaml())
    content = {
        "a": {"file": str(tmp_path / "e.yaml")},
        "b": {"file": str(tmp_path / "e.yaml"), "set": {"rollout.votes": 16}},
        "c": {"file": str(tmp_path / "e.yaml"), "set": {"rollout": {"votes": 32, "trained": 4}}},
    }
    path = tmp_path / "arms.yaml"
    path.write_text(yaml.safe_dump({"arms": content}))
    return path


def test_an_arm_is_a_cell_whatever_its_runs_are_called(arms_file, experiment, tmp_path):
    arms = read_arms(arms_file)
    assert arms["b"].experiment.rollout.votes == 16
    assert arms["a"].experiment.cell_hash() == experiment.cell_hash()
    planned = {"x": Seeds(), "y": Seeds(base=1, draw=1, rl=1)}
    others = {"z": Seeds(draw=1000), "u": Seeds(draw=1), "v": Seeds(rl=1), "w": Seeds(base=0, draw=3, rl=3)}
    for name, seeds in (planned | others).items():
        config = arms["b"].experiment.model_copy(update={"name": name, "seeds": seeds})
        write_answers(tmp_path / "study" / name, config, RECORD, 6)
    found = runs_of(load(tmp_path / "study"), arms)
    # A development draw, seeds that are no replicate's, a fourth replicate of three planned: none counts.
    assert {arm: [run["run"] for run in runs.values()] for arm, runs in found.items()} == {
        "a": [],
        "b": ["x", "y"],
        "c": [],
    }
    more = {name: replace(arm, replicates=4) for name, arm in arms.items()}
    assert [run["run"] for run in runs_of(load(tmp_path / "study"), more)["b"].values()] == ["x", "y", "w"]


def test_runs_of_another_laboratory_are_no_arm_s(arms_file, tmp_path):
    arms = read_arms(arms_file)
    write_answers(tmp_path / "study" / "a", arms["a"].experiment, RECORD, 6, facts={"laboratory": "another"})
    assert not any(runs_of(load(tmp_path / "study"), arms).values())


def test_bad_arms_are_named(arms_file):
    content = yaml.safe_load(arms_file.read_text())
    for change, complaint in (
        ({"set": {"rollout.votes": 8}}, "arms a and d are the same cell"),
        ({"set": {"rollout.vote": 8}}, r"arm d: .*rollout\.vote: unknown field"),
        ({"sett": {}}, r"arms\.d\.sett: unknown field"),
    ):
        arms_file.write_text(yaml.safe_dump({"arms": {**content["arms"], "d": {**content["arms"]["a"], **change}}}))
        with pytest.raises(UserError, match=complaint):
            read_arms(arms_file)


def test_every_arm_is_run_once_and_every_run_has_an_arm(repository):
    arms = read_arms()
    cells = {arm.experiment.cell_hash(): name for name, arm in arms.items()}
    run = Counter({name: 10 for name, arm in arms.items() if arm.experiment.name.startswith("confirm-")})
    for path in sorted((repository / "sweeps").glob("*.yaml")):
        if not path.name.startswith("search-"):
            run += Counter(cells[cell.experiment.cell_hash()] for cell in read_sweep(path).cells())
    assert run == {name: arm.replicates for name, arm in arms.items()}


def test_replicates_of_the_study_s_sweeps_are_those_of_its_claims(repository):
    for path in sorted((repository / "sweeps").glob("*.yaml")):
        if not path.name.startswith("search-"):
            seeds = [cell.experiment.seeds for cell in read_sweep(path).cells()]
            assert all((one.base, one.rl) == (one.draw % 3, one.draw) for one in seeds), path.name


# -- measures ----------------------------------------------------------------------------------------


@pytest.fixture
def study(arms_file, tmp_path):
    """Three replicates of arm a, and one of b."""
    arms = read_arms(arms_file)
    for arm, draw in (("a", 0), ("a", 1), ("a", 2), ("b", 0)):
        config = arms[arm].experiment.model_copy(update={"seeds": Seeds(base=draw, draw=draw, rl=draw)})
        write_answers(tmp_path / "study" / arm / f"r{draw}", config, RECORD, 6)
    return load(tmp_path / "study")


def run_of(study, number=0):
    return study.runs.iloc[number].to_dict()


def test_measures_by_hand():
    assert BY_HAND.keys() == EVALUATED.keys()
    for name, value in BY_HAND.items():
        assert EVALUATED[name][1](PAIR) == pytest.approx(value), name


def test_measures_of_a_record(study):
    measurements, run = Measurements(study), run_of(study)
    # Two samples a question count: the base has .5 and 1 right, the end 1 and 0; greedy .5 and 1.
    for name, value in {"gain": -0.25, "net_gain": 0.5 - 0.75, "learned": 0.5, "corrupted": 0.0, "tokens": 3.0}.items():
        assert measurements.of(run, Quantity(arm="a", measure=name)) == pytest.approx(value), name


def test_parts_add_up_to_the_gain_whatever_was_cut_off():
    cut = samples([[0, 0, 1, -1]], [[1, 0, 0, 0]])  # an answer before the cut counts
    assert cut.factors() == pytest.approx((3 / 4, 1.0, 2 / 3))
    assert np.prod(cut.factors()) == pytest.approx(0.5)
    assert samples([[-1, -1]], [[0, 0]]).factors() == (0.0, 0.0, 0.0)


def test_where_no_question_is_divided_there_is_no_gain_of_such():
    agreed = replace(PAIR, base=samples([[0] * 6]), end=samples([[0] * 6]))
    assert np.isnan(EVALUATED["gain_divided"][1](agreed))


def test_when_a_measure_is_of(study):
    measurements, run = Measurements(study), run_of(study)

    def value(**quantity):
        return measurements.of(run, Quantity(arm="a", **quantity))

    assert value(measure="avg") == 0.5
    assert value(measure="avg", at="peak") == 1.0  # after step 3; the base has .75
    assert value(measure="label_accuracy", at="first") == 0.9
    assert value(measure="label_accuracy", at="last") == pytest.approx(0.4)
    assert value(measure="label_accuracy", at="max") == 0.9
    assert value(measure="label_accuracy", at="min") == 0.0
    assert value(measure="majority_ratio", at="mean") == 0.5
    with pytest.raises(UserError, match="its metrics have no kl"):
        value(measure="kl", at="last")
    with pytest.raises(UserError, match=r"no evaluation of the base on mini-83 \(train\)"):
        value(measure="gain", task="mini-83")
    for quantity, complaint in (
        ({"measure": "avg", "at": "first"}, "avg is of an evaluation"),
        ({"measure": "entropy"}, "entropy is of training"),
        ({"measure": "entropy", "at": "last", "split": "fresh"}, "leave out task and split"),
    ):
        with pytest.raises(ValueError, match=complaint):
            value(**quantity)


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 2), min_size=1, max_size=4))
def test_parts_of_a_gain_add_up(pairs):
    before, after = zip(*pairs, strict=True)
    parts = decomposition(before, after)
    assert sum(parts) == pytest.approx(np.prod(after) - np.prod(before), abs=1e-12)
    # What does not change contributes nothing.
    assert all(part == pytest.approx(0.0, abs=1e-12) for part, b, a in zip(parts, before, after, strict=True) if a == b)


def test_parts_of_a_gain_by_hand():
    assert decomposition((1.0, 1.0, 0.5), (1.0, 1.0, 0.8)) == pytest.approx((0.0, 0.0, 0.3))
    # .5 x .5 to 1 x 1: the same for both, half of .75 each.
    assert decomposition((0.5, 0.5), (1.0, 1.0)) == pytest.approx((0.375, 0.375))


# -- rules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "least", "verdict"),
    [
        ([0.1, 0.11, 0.12], 0.0, SUPPORTED),
        ([0.1, 0.11, 0.12], 0.2, CONTRADICTED),
        ([0.1, 0.11, 0.12], 0.11, INSUFFICIENT),
        ([0.3, -0.1, 0.2], 0.0, INSUFFICIENT),
        ([-0.1, -0.11, -0.12], 0.0, CONTRADICTED),
        ([0.1, 0.11], 0.0, INSUFFICIENT),  # of three
        ([], 0.0, INSUFFICIENT),
    ],
)
def test_greater(values, least, verdict):
    found = judged_above("x", np.array(values), least, 3)
    assert (found.verdict, found.n) == (verdict, len(values))
    assert ("of 3 replicates" in found.what) == (len(values) < 3)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.01, 0.0, -0.01], SUPPORTED),
        ([0.2, 0.21, 0.22], CONTRADICTED),
        ([0.1, -0.1, 0.0], INSUFFICIENT),
        ([0.0, 0.0], INSUFFICIENT),
    ],
)
def test_equivalent(values, verdict):
    assert judged_within("x", np.array(values), 0.05, 3).verdict == verdict


def findings(*evidence, **fields):
    one = {"key": "k", "source": "paper", "where": "w", "statement": "s.", "evidence": list(evidence), **fields}
    return Findings.model_validate({"findings": [one]}).findings


def test_findings_are_judged_on_runs(study, arms_file):
    judge = Judge(study, read_arms(arms_file), {"gain": Judged("gain", 10, 0.1, 0.05, 0.15, SUPPORTED)})
    gain = {"arm": "a", "measure": "gain"}
    falls = {"kind": "greater", "left": {"arm": "a", "measure": "base_avg"}, "right": {"arm": "a", "measure": "avg"}}
    confirmed = {"kind": "confirmatory", "claim": "gain"}
    for evidence, verdict in (
        ([falls], SUPPORTED),
        ([falls, confirmed], SUPPORTED),
        ([falls, {"kind": "greater", "left": gain}], CONTRADICTED),  # one of them is
        ([falls, {**falls, "right": {"arm": "b", "measure": "avg"}}], INSUFFICIENT),  # one common replicate
        ([{**falls, "right": [{"arm": "a", "measure": "avg"}, {"arm": "a", "measure": "base_avg"}]}], SUPPORTED),
        ([{"kind": "spread", "of": gain, "least": 0.05}], CONTRADICTED),  # the three are the same
        ([{"kind": "trend", "arms": {"a": 1, "b": 2, "c": 4}, "measure": "gain"}], INSUFFICIENT),
        ([{**confirmed, "opposite": True}], CONTRADICTED),
        ([{"kind": "equivalent", "left": gain, "right": gain, "margin": 0.01}], SUPPORTED),
        # What no run has counts no replicate.
        ([{"kind": "greater", "left": {"arm": "a", "measure": "kl", "at": "last"}}], INSUFFICIENT),
    ):
        (one,) = findings(*evidence)
        assert judge.judge(one)[0] == verdict, evidence
    with pytest.raises(UserError, match="no confirmatory claim 'other'"):
        judge.judge(findings({"kind": "confirmatory", "claim": "other"})[0])


def test_a_trend_is_the_slope_over_arms(arms_file, tmp_path):
    arms = read_arms(arms_file)
    right = {"a": [[0, 1, 1, 1], [1, 1, 1, 1]], "b": [[0, 0, 1, 1], [1, 1, 1, 1]], "c": [[0, 0, 1, 1], [0, 1, 1, 1]]}
    for arm, codes in right.items():
        for draw in range(3):
            seeds = Seeds(base=draw, draw=draw, rl=draw)
            config = arms[arm].experiment.model_copy(update={"seeds": seeds})
            write_answers(tmp_path / "study" / arm / f"r{draw}", config, {**RECORD, (6, 0.6): codes}, 6)
    judge = Judge(load(tmp_path / "study"), arms, {})
    # avg@2 is .25, .5, .75 over log2 x of 3, 4, 5.
    trend = {"kind": "trend", "arms": {"a": 8, "b": 16, "c": 32}, "measure": "avg", "log2": True}
    (rising,), (falling,) = findings(trend), findings({**trend, "sign": -1})
    verdict, (found,) = judge.judge(rising)
    assert (verdict, found.value) == (SUPPORTED, pytest.approx(0.25))
    assert judge.judge(falling)[0] == CONTRADICTED


def test_the_table_has_a_verdict_for_each(study, arms_file):
    judge = Judge(study, read_arms(arms_file), {})
    far = findings(out_of_reach="no such model here", key="far", source="critics", number="1 -> 2")
    found = table(judge, [*findings({"kind": "greater", "left": {"arm": "a", "measure": "avg"}}), *far])
    assert found["verdict"].tolist() == [SUPPORTED, OUT_OF_REACH]
    text = markdown(found)
    assert "| s. | w |  | **supported** | avg (a) > 0: +0.500 [+0.500, +0.500], n = 3 |" in text
    assert "| s. | w | 1 -> 2 | **out of reach** | no such model here |" in text


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"evidence": []}, "give evidence, or say why it is out_of_reach"),
        ({"out_of_reach": "x"}, "give evidence, or say why it is out_of_reach"),
        ({"source": "me"}, r"findings\.0\.source"),
        ({"evidence": [{"kind": "greater", "left": {"arm": "z", "measure": "avg"}}]}, "no arm 'z'"),
        ({"evidence": [{"kind": "greater", "left": {"arm": "a", "measure": "avg", "at": "last"}}]}, "of an evaluation"),
    ],
)
def test_bad_findings_are_named(tmp_path, arms_file, change, complaint):
    evidence = [{"kind": "greater", "left": {"arm": "a", "measure": "avg"}}]
    one = {"key": "k", "source": "paper", "where": "w", "statement": "s", "evidence": evidence}
    path = tmp_path / "findings.yaml"
    path.write_text(yaml.safe_dump({"findings": [{**one, **change}]}))
    with pytest.raises(UserError, match=complaint):
        read_findings(path, read_arms(arms_file))
    path.write_text(yaml.safe_dump({"findings": [one, one]}))
    with pytest.raises(UserError, match="key 'k' is used twice"):
        read_findings(path, read_arms(arms_file))


# -- the study's own ---------------------------------------------------------------------------------


def test_the_study_s_findings_name_claims_and_arms_that_there_are():
    found = read_findings()
    claims = {claim.key for claim in read_claims()}
    named = {one.claim for finding in found for one in finding.evidence if isinstance(one, Confirmatory)}
    assert named == claims  # every preregistered claim lends its verdict to a finding
    assert {finding.source for finding in found} == {"paper", "critics", "consistency"}
    assert changed() is None, "the criteria are not as frozen"


def test_checks_of_the_paper_s_numbers(study):
    numbers = {"kind": "paper", "left": {"curve": "fig6_avg16", "at": "last"}}  # 45.93
    judge = Judge(study, {}, {})
    for rest, verdict in (
        ({"right": 40.0}, SUPPORTED),
        ({"right": 40.0, "least": 6.0}, CONTRADICTED),
        ({"right": 46.0, "margin": 0.1}, SUPPORTED),
        ({"right": 46.0, "margin": 0.05}, CONTRADICTED),
    ):
        assert judge.judge(findings({**numbers, **rest})[0])[0] == verdict


def test_the_paper_s_numbers():
    table_1 = {"where": "table 1", "model": "Qwen2.5-Math-7B", "benchmark": "AIME 2024"}
    after, base = (Number(**table_1, quantity=f"{what} avg@16") for what in ("TTRL", "base"))
    assert value_of(after) == 40.2
    assert value_of(Relative(after=after, base=base)) == pytest.approx(211.6, abs=0.05)
    assert value_of(Curve(curve="fig6_avg16", at="last")) == pytest.approx(45.93, abs=0.01)
    assert value_of(Curve(curve="fig9_reward_accuracy", at="min")) == pytest.approx(74.8, abs=0.05)
    with pytest.raises(UserError, match="0 numbers"):
        value_of(Number(**table_1, quantity="x"))
    with pytest.raises(UserError, match="no such curve"):
        value_of(Curve(curve="fig99", at="last"))


def test_the_paper_s_first_inconsistency():
    finding = next(one for one in read_findings() if one.key == "over-first-vote-by-20")
    study = load(Path(__file__).resolve().parent.parent / "paper_figures" / "data" / "demo")
    verdict, (found,) = Judge(study, {}, {}).judge(finding)
    # .4593 at the end of the curve, .4277 at the beginning of the other: 3.2 points, not more than 20.
    assert (verdict, found.value) == (CONTRADICTED, pytest.approx(3.16, abs=0.02))
