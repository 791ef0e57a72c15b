"""The short form of the null study: does the claims' pipeline err as rarely as it promises, and find what is there?"""

import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from analysis import load
from analysis.claims import Claim, Quantity, Values, evaluate_claims, read_claims
from analysis.null_study import (
    EDGE,
    PLANTED,
    QUESTIONS,
    REPLICATES,
    SAMPLES,
    codes_for,
    contradicted_at_the_edge,
    false_positives,
    judge_records,
    judge_values,
    simulate,
    study_folders,
    summary,
    truth,
    write_study,
)
from ttrl_repro.seeds import generator
from ttrl_repro.stats import avg_at_k, maj_at_k, pass_at_k

FAMILIES = 600
CLEAR = 1  # a planted study in which every p is below .005
SURE = 1e-4  # chance that a sound pipeline leaves a bound (the seeds are fixed: it does so always or never)


@pytest.fixture(scope="module")
def claims() -> tuple[Claim, ...]:
    return read_claims()


@pytest.fixture(scope="module")
def null(claims) -> pd.DataFrame:
    return judge_values(claims, "null", range(FAMILIES))


@pytest.fixture(scope="module")
def planted_folder(claims, tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    rng = generator("null study", "planted", CLEAR)
    write_study(study_folders(folder, claims), claims, simulate(claims, PLANTED, rng), rng)
    return folder


def test_answers_have_exactly_the_values_asked_for():
    rng = np.random.default_rng(0)
    for _ in range(300):
        passed = int(rng.integers(QUESTIONS + 1))
        majority = int(rng.integers(passed + 1))
        most = SAMPLES * majority + 3 * (passed - majority)
        right = int(rng.integers(passed, most + 1))
        codes_QN = codes_for(right, majority, passed, rng)
        assert avg_at_k(codes_QN) == right / (QUESTIONS * SAMPLES)
        assert maj_at_k(codes_QN) == majority / QUESTIONS
        assert pass_at_k(codes_QN, SAMPLES) == passed / QUESTIONS


@pytest.mark.parametrize(
    ("right", "majority", "passed"),
    [(4, 0, 5), (16, 0, 5), (36, 5, 5), (5, 6, 5), (30, 5, QUESTIONS + 1)],
)
def test_answers_that_cannot_be_are_refused(right, majority, passed):
    with pytest.raises(ValueError, match=f"no answers have {right} right samples, {majority} right votes"):
        codes_for(right, majority, passed, np.random.default_rng(0))


def test_records_give_the_verdicts_of_the_values_they_were_made_from(claims, null, planted_folder):
    # So what is found about values, of which there can be many, holds for the pipeline from records to verdicts.
    planted = evaluate_claims(load(planted_folder, frozen=True), claims, None).assign(study=CLEAR)
    same_verdicts(planted, judge_values(claims, "planted", [CLEAR]))
    # The second study is written over the first.
    same_verdicts(judge_records(claims, "null", [0, 1]), null[null["study"] < 2])


def same_verdicts(one: pd.DataFrame, other: pd.DataFrame) -> None:
    for exact in ("study", "key", "n", "p", "p_holm", "verdict", "note", "reason"):
        assert list(one[exact]) == list(other[exact]), exact
    for rounded in ("mean", "low", "high"):
        assert list(one[rounded]) == pytest.approx(list(other[rounded]), abs=1e-12)


def test_the_null_is_one(claims):
    # Of every claim the differences of 300 studies have mean 0, and as many are positive as negative.
    differences = {claim.key: [] for claim in claims}
    for number in range(300):
        simulated = simulate(claims, {}, generator("null study", "null", number))
        for claim in claims:
            differences[claim.key] += simulated.differences(claim).tolist()
    for key, values in differences.items():
        error = np.std(values) / np.sqrt(len(values))
        assert abs(np.mean(values)) < 4 * error, key
        positive, negative = np.sum(np.array(values) > 1e-9), np.sum(np.array(values) < -1e-9)
        assert abs(positive - negative) < 4 * np.sqrt(positive + negative), key


def test_false_positives_are_as_rare_as_promised(null):
    wrong, studies = false_positives(null)
    assert studies == FAMILIES
    # The procedure promises at most .05. Ties, and claims that share measures, leave less (.028 of 2,000 studies).
    assert wrong <= binom.ppf(1 - SURE, studies, 0.05)
    assert wrong >= binom.ppf(SURE, studies, 0.02)
    # Without Holm's procedure the family would be wrong far more often, so the bound above is not met by itself.
    raw = null.assign(p_holm=null["p"])
    assert false_positives(raw)[0] > binom.ppf(1 - SURE, studies, 0.2)


def test_eight_independent_claims_err_exactly_as_often_as_they_must(claims):
    (one,) = (claim for claim in claims if claim.key == "loss-mix")
    sides = [
        {side: getattr(one, side).model_copy(update={"arm": f"arm-{number}"}) for side in ("left", "right")}
        for number in range(8)
    ]
    family = [one.model_copy(update={"key": f"claim-{n}", **both}) for n, both in enumerate(sides)]
    wrong, studies = false_positives(judge_values(family, "null", range(FAMILIES)))
    # Without ties p is uniform on multiples of 2 / 1024, and 6 / 1024 is the largest of which 8 times is below .05.
    expected = 1 - (1 - 6 / 1024) ** 8
    assert expected == pytest.approx(0.046, abs=1e-3)
    assert binom.ppf(SURE, studies, expected) <= wrong <= binom.ppf(1 - SURE, studies, expected)


def test_every_single_test_keeps_its_level(claims, null):
    for claim in (claim for claim in claims if claim.kind == "greater"):
        low = int((null[null["key"] == claim.key]["p"] < 0.05).sum())
        assert low <= binom.ppf(1 - SURE, FAMILIES, 0.05), claim.key
        if claim.key == "loss-mix":  # without ties the level is exactly 50 / 1024: the most below .05
            assert low >= binom.ppf(SURE, FAMILIES, 50 / 1024)


def test_planted_effects_of_both_signs_are_found(claims):
    table = summary(claims, "planted", judge_values(claims, "planted", range(100)))
    assert {"supported", "contradicted"} == {"supported" if true > 0 else "contradicted" for true in table["truth"]}
    for row in table.to_dict("records"):
        right, wrong = ("supported", "contradicted") if row["truth"] > 0 else ("contradicted", "supported")
        assert row[right] >= 0.8, row["key"]
        assert row[wrong] == 0, row["key"]
        assert row["mean"] == pytest.approx(row["truth"], abs=0.01)


def test_at_its_edge_a_claim_is_contradicted_as_rarely_as_promised(claims):
    expected = {claim.key: claim.smallest_effect for claim in claims if claim.kind == "greater"}
    assert truth(claims, EDGE) == pytest.approx(expected)
    verdicts = judge_values(claims, "edge", range(FAMILIES))
    for row in summary(claims, "edge", verdicts).to_dict("records"):
        # Fractions of an answer, too. The standard error of 600 studies is .0008.
        assert row["mean"] == pytest.approx(row["truth"], abs=0.0035), row["key"]
    for key, (wrong, studies) in contradicted_at_the_edge(verdicts).items():
        assert studies == FAMILIES
        assert wrong <= binom.ppf(1 - SURE, studies, 0.025), key
        assert wrong >= binom.ppf(SURE, studies, 0.01), key  # it does happen: the bound above is not met by itself


def test_the_edge_s_records_give_its_values(claims):
    same_verdicts(judge_records(claims, "edge", [0]), judge_values(claims, "edge", [0]))


def test_greedy_answers_leave_the_null_as_it_is(claims, planted_folder):
    # They count among the base's best, which is to be the value that was drawn; and come as near to it as they can.
    values = Values(load(planted_folder), ["confirm-majority"])
    simulated = simulate(claims, PLANTED, generator("null study", "planted", CLEAR))
    for run in values.runs:
        best, greedy = (
            values.of(run, Quantity(arm="confirm-majority", measure=name)) for name in ("base_best_avg", "base_greedy")
        )
        assert best == simulated.bases[run["seed_draw"], "train"].avg / (QUESTIONS * SAMPLES)
        assert best - 1 / QUESTIONS < greedy <= best


def test_swapping_the_sides_flips_every_verdict(claims, planted_folder):
    study = load(planted_folder, frozen=True)
    swapped = [claim.model_copy(update={"left": claim.right, "right": claim.left}) for claim in claims]
    before, after = evaluate_claims(study, claims, None), evaluate_claims(study, swapped, None)
    assert (before["p_holm"] < 0.05).all()  # every effect of this study is significant
    expected = {key: "supported" if true > 0 else "contradicted" for key, true in truth(claims, PLANTED).items()}
    assert dict(zip(before["key"], before["verdict"], strict=True)) == expected
    flipped = {"supported": "contradicted", "contradicted": "supported"}
    assert list(after["verdict"]) == [flipped[verdict] for verdict in before["verdict"]]
    assert list(after["p"]) == list(before["p"])
    assert list(after["mean"]) == list(-before["mean"])


def test_deleted_runs_leave_the_claims_that_need_them_insufficient(claims, planted_folder, tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(planted_folder, folder)
    shutil.rmtree(folder / "confirm-frozen" / "r3")
    whole = evaluate_claims(load(planted_folder, frozen=True), claims, None)
    cut = evaluate_claims(load(folder, frozen=True), claims, None)
    for before, after in zip(whole.to_dict("records"), cut.to_dict("records"), strict=True):
        if before["key"] == "revoting":
            assert (after["verdict"], after["reason"]) == ("insufficient", "1 of 10 replicates are missing")
            assert (after["n"], after["p"]) == (REPLICATES - 1, 1)
        else:
            assert (after["verdict"], after["p"]) == (before["verdict"], before["p"])
            assert after["p_holm"] >= before["p_holm"]  # nothing is gained by a missing arm
    shutil.rmtree(folder / "confirm-majority" / "r5")
    cut = evaluate_claims(load(folder, frozen=True), claims, None).set_index("key")["verdict"]
    assert cut.pop("loss-mix") == "supported"  # it alone does not need that arm
    assert set(cut) == {"insufficient"}


def test_claims_without_a_known_null_are_refused(claims):
    other = claims[0].model_copy(update={"right": claims[0].right.model_copy(update={"measure": "base_avg"})})
    with pytest.raises(ValueError, match="no null is known for avg and base_avg"):
        simulate([other], {}, generator(0))
    with pytest.raises(ValueError, match="only base_best_maj can have an effect"):
        simulate(claims, {("confirm-majority", "base_pass", "train"): 0.1}, generator(0))
    with pytest.raises(ValueError, match=r"no claim looks at \('confirm-none', 'avg', 'train'\)"):
        simulate(claims, {("confirm-none", "avg", "train"): 0.1}, generator(0))
