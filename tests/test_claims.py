"""The claims file, the measures of a run, and the verdicts."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from analysis import load
from analysis.claims import (
    MEASURES,
    PATH,
    SMALL,
    Claim,
    Claims,
    Quantity,
    Values,
    evaluate_claims,
    first_majority,
    judge,
    markdown,
    read_claims,
    read_file,
    report,
    seeds_of,
)
from ttrl_repro import laboratory
from ttrl_repro.config import Experiment, load_experiment
from ttrl_repro.errors import UserError
from ttrl_repro.records import Record

# Sampled codes of two questions (0 is right, None abstains), by step and temperature; greedy is temperature 0.
TABLES = {
    (0, 0.0): [[0], [1]],
    (0, 0.6): [[0, 1, 1, 1], [0, 0, None, 2]],  # avg@2 .75, maj@4 .5, pass@4 1
    (0, 1.0): [[0, 0, 0, 1], [0, 0, 1, 2]],  # avg@2 1, maj@4 1
    (0, 0.3): [[1, 1, 1, 1], [0, 1, 1, 1]],  # avg@2 .25, maj@4 0
    (1, 0.6): [[9, 9, 9, 9], [9, 9, 9, 9]],  # an evaluation on the way, which no measure looks at
    (6, 0.0): [[0], [0]],
    (6, 0.6): [[0, 0, 1, 1], [1, 1, 1, 1]],  # avg@2 .5, maj@4 .25 (a tie), pass@4 .5
}
BY_HAND = {
    "base_avg": 0.75,
    "base_best_avg": 1.0,
    "base_maj": 0.5,
    "base_best_maj": 1.0,
    "base_pass": 1.0,
    "base_greedy": 0.5,
    "avg": 0.5,
    "maj": 0.25,
    "pass": 0.5,
    "greedy": 1.0,
    "first_label_accuracy": 0.9,
    "last_label_accuracy": 0.4,
}


def answers(step, temperature, codes_QN, split="train", task="mini-30"):
    return [
        {
            "step": step, "task": task, "split": split, "temperature": temperature, "top_p": 0.95,
            "protocol": "sampled" if temperature else "greedy", "question_id": str(question), "sample": sample,
            "answer": None, "key": None if code is None else f"k{code}", "gold_key": "k0", "tokens": 3,
            "finished": True,
        }
        for question, codes in enumerate(codes_QN)
        for sample, code in enumerate(codes)
    ]  # fmt: skip


@pytest.fixture
def configured(experiment):
    """An arm's config in a replicate, with the seeds of a claim's, unless `draw` or `rl` say otherwise."""

    def configured(arm="confirm-a", replicate=0, draw=None, rl=None, **changes):
        base, *others = seeds_of(replicate)
        draw, rl = (own if given is None else given for own, given in zip(others, (draw, rl), strict=True))
        evaluate = {**experiment.evaluate.model_dump(), "base_temperatures": (0.3, 0.6, 1.0)}
        seeds = {"base": base, "draw": draw, "rl": rl}
        return Experiment.model_validate(
            {**experiment.model_dump(), "name": arm, "seeds": seeds, "evaluate": evaluate, **changes}
        )

    return configured


@pytest.fixture
def write(tmp_path, configured):
    """Writes a finished record, by its own writer, into tmp_path/study/ARM/rR."""
    return lambda *arm_and_replicate, **changes: write_record(tmp_path, configured, *arm_and_replicate, **changes)


def write_record(
    folder, configured, arm="confirm-a", replicate=0, tables=TABLES, state="finished", facts=None, **changes
):
    config = configured(arm, replicate, **changes)
    number = len(list((folder / "study" / arm).glob("*")))
    where = folder / "study" / arm / f"r{replicate}"
    where = where if not where.exists() else where.with_name(f"r{replicate}-{number}")
    return write_answers(where, config, tables, 6, state, facts).parent.parent


def write_answers(where, config, tables, steps, state="finished", facts=None):
    """A record with these answers, at its end those of step 6, and label accuracies of .9, .8, .6, .4, .2, 0."""
    frozen, seed = laboratory.read(), config.seeds.base
    model = {
        "name": config.model,
        "weights": frozen.weights.get(f"{config.model}-seed{seed}", f"made here, seed {seed}"),
        "recipe": frozen.recipes[config.model],
    }
    task = {"name": config.task, "fingerprint": f"{config.task}, draw {config.seeds.draw}"}
    facts = {"model": model, "task": task, "laboratory": frozen.content_hash(), **(facts or {})}
    record = Record.create(where, config, facts)
    for step, accuracy in zip([1, *range(steps - 4, steps + 1)], (0.9, 0.8, 0.6, 0.4, 0.2, 0.0), strict=True):
        record.append("metrics.jsonl", {"step": step, "label_accuracy": accuracy, "majority_ratio": 0.5})
    for step in sorted({step for step, _ in tables}):
        end = steps if step == 6 else step
        splits = ["train", *(["fresh"] if config.evaluate.fresh else [])]
        rows = [
            answers(end, t, codes, split, config.task)
            for (at, t), codes in tables.items()
            for split in splits
            if at == step
        ]
        record.write_eval(end, [row for part in rows for row in part])
    record.manifest.update(steps_done=steps, git=None)
    record.close(state)
    return where


def claim(**changes):
    content = {
        "key": "one",
        "statement": "A gains.",
        "left": {"arm": "confirm-a", "measure": "avg"},
        "right": {"arm": "confirm-b", "measure": "avg"},
        "kind": "greater",
        "smallest_effect": 0.05,
        "replicates": 10,
        "refuted_if": "it does not.",
    }
    return Claim.model_validate({**content, **changes})


def verdict(differences, **changes):
    (row,) = judge([claim(**changes)], [np.array(differences, dtype=float)]).to_dict("records")
    return row


# -- the file ------------------------------------------------------------------------------------


def test_the_study_s_claims_are_8_with_enough_replicates():
    claims = read_claims()
    assert len(claims) == 8
    # The smallest p of 10 replicates, 2 / 2^10, survives Holm's procedure over all of them.
    assert all(2 / 2**one.replicates * len(claims) < 0.05 for one in claims)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[0].update(surprise=1), "claims.0.surprise: unknown field; known here: key, statement, left"),
        (lambda c: c[0].pop("refuted_if"), "claims.0.refuted_if: Field required"),
        (lambda c: c[0].update(refuted_if=""), "claims.0.refuted_if: String should have at least 1 character"),
        (lambda c: c[0].update(replicates=9), "claims.0.replicates: Input should be greater than or equal to 10"),
        (lambda c: c[0].update(smallest_effect=0), "claims.0.smallest_effect: Input should be greater than 0"),
        (lambda c: c[0]["left"].update(measure="best"), "claims.0.left.measure: Input should be 'base_avg'"),
        (lambda c: c[0].update(kind="less"), "claims.0.kind: Input should be 'greater' or 'equivalent'"),
        (lambda c: c[0].update(right=c[0]["left"]), "claims.0: left and right are the same quantity"),
        (lambda c: c.append(dict(c[0])), "claims: Tuple should have at most 8 items"),
        (lambda c: c[1].update(key=c[0]["key"]), "(top level): key 'gain' is used twice"),
        (lambda c: c[2]["left"].update(split="fresh"), "claims.2.left: first_label_accuracy is of training itself"),
        (lambda c: c.clear(), "claims: Tuple should have at least 1 item"),
        (lambda c: c[0].update(replicates=1000), "claims.0.replicates: Input should be less than 1000"),
        (lambda c: c[0]["left"].update(arm="confirm-new"), "(top level): arm 'confirm-new' has no cell in arms"),
        (lambda c: c.pop(2), "(top level): arm 'confirm-loss-mix' is in no claim"),
    ],
)
def test_bad_claims_are_refused(tmp_path, change, message):
    content = yaml.safe_load(PATH.read_text())
    change(content["claims"])
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=re.escape(f"{path}: {message}")):
        read_claims(path)


def test_arms_without_cells_are_refused(tmp_path):
    content = yaml.safe_load(PATH.read_text())
    path = tmp_path / "claims.yaml"
    for arms, message in (
        ({"confirm-majority": "any"}, "arms.confirm-majority: String should match pattern"),
        (0, "arms: "),
    ):
        path.write_text(yaml.safe_dump({**content, "arms": arms}))
        with pytest.raises(UserError, match=re.escape(message)):
            read_claims(path)


def test_arms_are_the_confirmatory_experiments(repository):
    """Every arm has a file of its name and cell, every file is an arm, and it is what the claims take it for."""
    arms = {path.stem: load_experiment(path) for path in (repository / "experiments" / "confirm").glob("*.yaml")}
    content = read_file()
    assert {arm: found.cell_hash() for arm, found in arms.items()} == content.arms
    assert all(found.name == arm for arm, found in arms.items())
    assert {arm: (found.task, found.reward.label(), found.model) for arm, found in arms.items()} == {
        "confirm-majority": ("mini-30", "majority", "mini-s"),
        "confirm-frozen": ("mini-30", "frozen", "mini-s"),
        "confirm-oracle": ("mini-30", "oracle", "mini-s"),
        "confirm-format": ("mini-30", "format", "mini-s"),
        "confirm-loss-mix": ("mix-45", "majority", "mini-s"),
    }
    # They differ in nothing else: of an arm with the task and reward of another one the cell is that one's.
    majority = arms["confirm-majority"]
    for found in arms.values():
        same = found.model_copy(update={"task": majority.task, "reward": majority.reward})
        assert same.cell_hash() == majority.cell_hash()
    assert majority.evaluate.votes == 64  # what statements call pass@64 and maj@64, and avg@16
    assert majority.evaluate.k == 16


def test_the_frozen_claims_are_those_of_the_package():
    assert laboratory.CLAIMS == PATH
    assert laboratory.claims_hash() == laboratory.read().claims


def test_what_is_no_claims_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read the claims"):
        read_claims(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("claims: [")
    with pytest.raises(UserError, match="not valid YAML"):
        read_claims(tmp_path / "a.yaml")


# -- measures ------------------------------------------------------------------------------------


def test_every_measure_by_hand(write):
    values = Values(load(write()), ["confirm-a"])
    (run,) = values.runs
    found = {name: values.of(run, Quantity(arm="confirm-a", measure=name)) for name in BY_HAND}
    assert found == pytest.approx(BY_HAND)
    assert set(BY_HAND) == {*MEASURES, "first_label_accuracy", "last_label_accuracy"}


def test_greedy_may_be_the_best_of_the_base(write):
    values = Values(load(write(tables={**TABLES, (0, 0.0): [[0], [0]], (0, 1.0): [[0, 1], [1, 1]]})), ["confirm-a"])
    (run,) = values.runs
    assert values.of(run, Quantity(arm="confirm-a", measure="base_best_avg")) == 1  # .75 at the best temperature


def test_a_named_task_is_another_task(write):
    values = Values(load(write()), ["confirm-a"])
    (run,) = values.runs
    assert values.of(run, Quantity(arm="confirm-a", measure="avg", task="mini-30")) == 0.5
    with pytest.raises(UserError, match=r"confirm-a/r0: no evaluation of the base on mini-83 \(train\), T=0"):
        values.of(run, Quantity(arm="confirm-a", measure="avg", task="mini-83"))
    with pytest.raises(UserError, match=r"no evaluation of the base on mini-30 \(fresh\)"):
        values.of(run, Quantity(arm="confirm-a", measure="avg", split="fresh"))


def test_what_a_measure_needs_is_asked_for(write):
    folder = write(tables={where: codes for where, codes in TABLES.items() if where != (6, 0.6)})
    metrics = folder / "confirm-a" / "r0" / "metrics.jsonl"
    metrics.write_text("".join(line for line in metrics.open() if '"step": 4' not in line))
    values = Values(load(folder), ["confirm-a"])
    (run,) = values.runs
    with pytest.raises(UserError, match=r"no evaluation of the trained model on mini-30 \(train\), T=0\.6"):
        values.of(run, Quantity(arm="confirm-a", measure="avg"))
    with pytest.raises(UserError, match="confirm-a/r0: no label_accuracy of step 4"):
        values.of(run, Quantity(arm="confirm-a", measure="last_label_accuracy"))


# -- pairing -------------------------------------------------------------------------------------


def test_differences_are_paired_on_the_replicate(write):
    halved = {**TABLES, (6, 0.6): [[0, 1, 1, 1], [1, 1, 1, 1]]}  # avg@2 .25
    for replicate, tables in ((2, TABLES), (9, halved), (3, TABLES)):
        folder = write("confirm-a", replicate, tables=tables)
    nothing = {**TABLES, (6, 0.6): [[1, 1, 1, 1], [1, 1, 1, 1]]}
    for replicate in (3, 9, 4):
        write("confirm-b", replicate, tables=nothing, reward="oracle")
    write("confirm-b", 2, tables=nothing, reward="oracle", state="interrupted")  # an unfinished run is none
    values = Values(load(folder), ["confirm-a", "confirm-b"])

    def found(**changes):
        return {r: value for r, value in enumerate(values.differences(claim(**changes))) if not np.isnan(value)}

    assert found() == {3: 0.5, 9: 0.25}
    assert found(right={"arm": "confirm-a", "measure": "base_avg"}) == {2: -0.25, 3: -0.25, 9: -0.5}
    assert found(right={"arm": "confirm-none", "measure": "avg"}) == {}
    assert values.differences(claim(replicates=12)).shape == (12,)


def test_a_replicate_is_base_draw_and_rl_seed():
    assert [seeds_of(replicate) for replicate in range(5)] == [(0, 0, 0), (1, 1, 1), (2, 2, 2), (0, 3, 3), (1, 4, 4)]


def test_only_the_replicates_of_a_claim_count(write):
    within = claim(right={"arm": "confirm-a", "measure": "base_avg"})
    for replicate in range(10):
        folder = write("confirm-a", replicate)
    better = {**TABLES, (6, 0.6): [[0, 0, 0, 0], [0, 0, 0, 0]]}
    for replicate in (10, 11):  # more than promised
        write("confirm-a", replicate, tables=better)
    write("confirm-a", 0, rl=1, tables=better)  # a draw again
    write("confirm-a", 1, seeds={"base": 0, "draw": 1, "rl": 1}, tables=better)  # another base
    write("confirm-a", 1000, tables=better)  # a draw that the laboratory was made with
    (row,) = evaluate_claims(load(folder), [within], None).to_dict("records")
    assert (row["n"], row["mean"]) == (10, -0.25)
    assert row["note"] == "5 other runs of its arms are there and do not count"
    shutil.rmtree(folder / "confirm-a" / "r0")  # which r0-10, r1-11, r10, r11 and r1000 do not stand in for
    (row,) = evaluate_claims(load(folder), [within], None).to_dict("records")
    assert (row["n"], row["p"], row["verdict"]) == (9, 1, "insufficient")
    assert row["reason"] == "1 of 10 replicates are missing"


def test_picked_replicates_do_not_count(write):
    """Twenty draws without an effect, of which the ten worst are deleted: those left would be significant."""
    against = claim(right={"arm": "confirm-a", "measure": "base_maj"})  # .5
    better, worse = ({**TABLES, (6, 0.6): [[0, code, 1, 1], [code, 1, 1, 1]]} for code in (0, 1))  # avg .75, .25
    for replicate in range(20):
        folder = write("confirm-a", replicate, tables=worse if replicate % 2 else better)
    (row,) = evaluate_claims(load(folder), [against], None).to_dict("records")
    assert (row["n"], row["mean"], row["verdict"]) == (10, 0, "insufficient")
    for replicate in range(1, 20, 2):
        shutil.rmtree(folder / "confirm-a" / f"r{replicate}")
    (row,) = evaluate_claims(load(folder), [against], None).to_dict("records")
    assert (row["n"], row["mean"], row["verdict"]) == (5, 0.25, "insufficient")
    assert row["reason"] == "5 of 10 replicates are missing"


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_a_run_that_is_not_what_its_arm_is_is_refused(write, configured, state):
    folder = write("confirm-a", 0)
    write("confirm-a", 1, train={**configured().train.model_dump(), "learning_rate": 1e-5}, state=state)
    arm = configured().cell_hash()
    run = configured(train={**configured().train.model_dump(), "learning_rate": 1e-5}).cell_hash()
    message = (
        f"confirm-a/r1: named confirm-a, but its config is not that arm's: the arm is cell {arm}, the run is of {run}"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        evaluate_claims(load(folder), [claim()], {"confirm-a": arm, "confirm-b": "0" * 12})
    shutil.rmtree(folder / "confirm-a" / "r1")
    evaluate_claims(load(folder), [claim()], {"confirm-a": arm, "confirm-b": "0" * 12})


def test_an_arm_of_two_cells_is_refused(write):
    write(replicate=0)
    folder = write(replicate=1, reward="oracle")
    with pytest.raises(UserError, match="arm confirm-a: its runs are of 2 cells"):
        Values(load(folder), ["confirm-a"]).differences(claim())


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"facts": {"model": {"name": "mini-xs", "weights": "0"}}}, "weights"),
        ({"facts": {"task": {"name": "mini-30", "fingerprint": "g"}}}, "questions"),
        ({"model": "mini-s"}, "model"),
        ({"evaluate": {"k": 3, "votes": 4, "base_temperatures": (0.6,)}}, "protocol"),
    ],
)
def test_unlike_runs_are_not_paired(write, changes, name):
    write("confirm-a")
    folder = write("confirm-b", **{"reward": "oracle", **changes})
    with pytest.raises(UserError, match=f"confirm-a/r0 and confirm-b/r0 cannot be paired, their {name} differ"):
        Values(load(folder), ["confirm-a", "confirm-b"]).differences(claim())


# -- verdicts ------------------------------------------------------------------------------------

UP = [0.10, 0.12, 0.08, 0.11, 0.09, 0.10, 0.13, 0.07, 0.10, 0.10]
NOISE = [0.1, -0.1, 0.08, -0.09, 0.05, -0.05, 0.02, -0.03, 0.1, -0.08]


def test_greater_supported_and_contradicted():
    row = verdict(UP)
    assert (row["verdict"], row["p"], row["n"], row["note"]) == ("supported", 2 / 1024, 10, "")
    assert row["mean"] == pytest.approx(0.1)
    # 95 % t interval of ten: 2.2622 sd / sqrt(10).
    assert row["high"] == pytest.approx(0.1 + 2.2622 * np.std(UP, ddof=1) / np.sqrt(10), abs=1e-5)
    row = verdict(-np.array(UP))
    assert (row["verdict"], row["reason"]) == ("contradicted", "significant, with the other sign")


def test_greater_contradicted_by_an_interval_below_the_smallest_effect():
    row = verdict(np.array(NOISE) / 10)  # nothing there, and measured well enough to say so
    assert row["p"] > 0.05
    assert row["low"] < 0 < row["high"] < 0.05
    assert (row["verdict"], row["reason"]) == ("contradicted", "the interval ends below 0.05")


def test_greater_insufficient():
    row = verdict(NOISE)
    assert row["high"] > 0.05
    assert (row["verdict"], row["reason"]) == ("insufficient", "not significant, and the interval reaches 0.05")


def test_a_significant_effect_below_the_smallest_one_is_supported_with_a_note():
    row = verdict(np.array(UP) / 10)
    assert row["high"] < 0.05  # so the interval alone would contradict: significance goes first
    assert (row["verdict"], row["note"]) == ("supported", SMALL)


def test_missing_replicates_are_insufficient_and_keep_their_place_in_holm():
    claims = [claim(key="a"), claim(key="b"), claim(key="c")]
    gaps = np.array([np.nan, *UP[:4], np.nan, *UP[4:7], np.nan])
    table = judge(claims, [np.array(UP), gaps, np.full(10, np.nan)])
    assert list(table["verdict"]) == ["supported", "insufficient", "insufficient"]
    assert list(table["p"]) == [2 / 1024, 1, 1]
    assert list(table["p_holm"]) == [6 / 1024, 1, 1]  # times three, not times one
    assert list(table["n"]) == [10, 7, 0]
    assert list(table["reason"][1:]) == ["3 of 10 replicates are missing", "10 of 10 replicates are missing"]
    assert table["mean"][1] == pytest.approx(np.mean(UP[:7]))  # described all the same
    assert np.isnan([table["mean"][2], table["low"][2]]).all()


def test_more_differences_than_replicates_are_a_mistake():
    with pytest.raises(ValueError, match=r"claim one: 10 differences, not \(20,\)"):
        verdict([*NOISE, *UP])


def test_holm_covers_all_claims():
    # One of ten with the other sign: 1 + 10 patterns of 512 are as far out. That passes alone, and not among three.
    weak = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, -0.1]
    alone = verdict(weak)
    assert (alone["p"], alone["verdict"]) == (22 / 1024, "supported")
    among = judge([claim(key=key) for key in "abc"], [np.array(weak), np.array(NOISE), np.array(NOISE)])
    assert (among["p_holm"][0], among["verdict"][0]) == (66 / 1024, "insufficient")


def test_equivalent():
    small = np.array(NOISE) / 10
    row = verdict(small, kind="equivalent", smallest_effect=0.02)
    # 90 % t interval of ten: 1.8331 sd / sqrt(10).
    assert row["high"] == pytest.approx(small.mean() + 1.8331 * small.std(ddof=1) / np.sqrt(10), abs=1e-6)
    assert row["p"] < 0.05
    assert (row["verdict"], row["note"]) == ("supported", "")
    for sign in (1, -1):
        row = verdict(sign * np.array(UP), kind="equivalent", smallest_effect=0.02)
        assert (row["verdict"], row["reason"]) == ("contradicted", "the interval lies beyond 0.02")
    row = verdict(NOISE, kind="equivalent", smallest_effect=0.02)
    assert (row["verdict"], row["reason"]) == ("insufficient", "the interval reaches 0.02")


def test_equivalence_is_tested_at_its_holm_level():
    # A mean of .01 with a standard error of .005: t = 2 to the margin of .02, one-sided p .038 with 9 degrees.
    pattern = np.array([1, -1] * 5) * 0.005 * np.sqrt(9) + 0.01
    equivalent = {"kind": "equivalent", "smallest_effect": 0.02}
    alone = verdict(pattern, **equivalent)
    assert alone["p"] == pytest.approx(0.0383, abs=1e-4)
    assert alone["verdict"] == "supported"
    among = judge([claim(key="a", **equivalent), claim(key="b")], [pattern, np.array(NOISE)])
    assert among["verdict"][0] == "insufficient"
    assert among["reason"][0] == "within 0.02, but not at the level that Holm's procedure leaves it"


# -- from records to the table -------------------------------------------------------------------


@pytest.fixture
def study_folder(write):
    """Ten replicates: confirm-a has avg .5, confirm-b 0."""
    nothing = {**TABLES, (6, 0.6): [[1, 1, 1, 1], [1, 1, 1, 1]]}
    for replicate in range(10):
        write("confirm-a", replicate)
        folder = write("confirm-b", replicate, tables=nothing, reward="oracle")
    return folder


@pytest.fixture
def claims_file(tmp_path, configured):
    path = tmp_path / "claims.yaml"
    arms = {
        "confirm-a": configured().cell_hash(),
        "confirm-b": configured(reward="oracle").cell_hash(),
        "confirm-c": "0" * 12,
    }
    content = Claims(arms=arms, claims=(claim(), claim(key="other", right={"arm": "confirm-c", "measure": "avg"})))
    path.write_text(yaml.safe_dump(content.model_dump(mode="json")))
    return path


def test_from_records_to_verdicts(study_folder, claims_file):
    claims = read_claims(claims_file)
    table = evaluate_claims(load(study_folder, frozen=True), claims, read_file(claims_file).arms)
    assert list(table["verdict"]) == ["supported", "insufficient"]
    assert (table["mean"][0], table["low"][0], table["high"][0]) == (0.5, 0.5, 0.5)
    assert table["p_holm"][0] == 4 / 1024
    text = report(study_folder, claims_file)
    assert "| one | 10 | +0.500 [+0.500, +0.500] | 0.0020 | 0.0039 | supported | significant |" in text
    assert "| other | 0 | - | 1.0000 | 1.0000 | insufficient | 10 of 10 replicates are missing |" in text
    assert "| confirm-a | 10 | -0.500 [-0.500, -0.500] | first majority not exceeded |" in text
    head, code, tables = text.split("\n\n", 2)
    tag = laboratory.read().tag
    assert head == f"These are not the preregistered claims (those of the freeze {tag}): they are {claims_file}."
    assert code.startswith(("Not checked: whether these records were made at", "Made at"))  # by where the tests run
    assert tables == markdown(table, first_majority(load(study_folder)), claims)


@pytest.fixture
def confirmed(tmp_path, repository):
    """Ten replicates of every arm of the study, in which they all end alike."""
    for path in (repository / "experiments" / "confirm").glob("*.yaml"):
        for replicate in range(10):
            seeds = zip(("base", "draw", "rl"), seeds_of(replicate), strict=True)
            config = load_experiment(path, [f"seeds.{name}={seed}" for name, seed in seeds])
            write_answers(tmp_path / "runs" / path.stem / f"r{replicate}", config, TABLES, config.train.steps)
    return tmp_path / "runs"


def test_the_study_s_own_claims_on_records_of_its_own_arms(confirmed, monkeypatch, tmp_path):
    text = report(confirmed)
    assert text.startswith(("Not checked", "Made at"))  # and not that these are other claims
    # Here k is 16, so that avg is of all four samples: .25 at the end, and 5/8 the best of the base.
    for key, found in {"gain": "-0.375", "loss-mix": "+0.500", "fresh": "-0.375", "revoting": "+0.000"}.items():
        assert f"| {key} | 10 | {found} [{found}, {found}] |" in text
    same = tmp_path / "same.yaml"  # what a file says makes it the preregistered claims, not where it lies
    same.write_text("# A comment.\n" + PATH.read_text())
    assert report(confirmed, same) == text
    changed = laboratory.read().model_copy(update={"claims": "0"})
    monkeypatch.setattr(laboratory, "read", lambda: changed)
    with pytest.raises(UserError, match=rf"claims\.yaml: these are not the claims of the freeze {changed.tag}"):
        report(confirmed)


def test_the_report_asks_git_whose_code_made_the_records(study_folder, claims_file, monkeypatch):
    asked, tag = [], laboratory.read().tag

    def unrelated(commits, tag):
        asked.append((sorted(commits), tag))
        return answer

    monkeypatch.setattr(laboratory, "unrelated", unrelated)
    for replicate, commit in ((3, "a" * 40), (4, "b" * 40)):
        record = Record.reopen(study_folder / "confirm-b" / f"r{replicate}")
        record.manifest["git"] = {"commit": commit, "dirty": False}
        record.save_manifest()
    answer = None
    line = f"Not checked: whether these records were made at {tag} or later (no git checkout with its freeze here)."
    assert report(study_folder, claims_file).split("\n\n")[1] == line
    answer = []
    line = f"Made at {tag} or later, by git: 2 of 20 records; not checked: 18, which an installed package made."
    assert report(study_folder, claims_file).split("\n\n")[1] == line
    answer = ["b" * 40]
    message = f"confirm-b/r4: its commit {'b' * 12} is neither that of {tag} nor a descendant of it"
    with pytest.raises(UserError, match=message):
        report(study_folder, claims_file)
    assert asked == [(["a" * 40, "b" * 40], tag)] * 3


def test_the_report_s_first_majority_is_of_the_runs_that_count(study_folder, claims_file, write):
    before = report(study_folder, claims_file)
    right = {**TABLES, (6, 0.6): [[0, 0, 0, 0], [0, 0, 0, 0]]}
    write("confirm-a", 1000, tables=right)
    after = report(study_folder, claims_file)
    note = "1 other runs of its arms are there and do not count"
    assert note in after
    # The line on the code counts it, where there is a git checkout.
    assert after.replace(f"; {note}", "").replace("0 of 21", "0 of 20").replace("checked: 21", "checked: 20") == before


def test_records_without_any_arm_of_the_claims_are_a_mistake(study_folder):
    study = load(study_folder)
    with pytest.raises(UserError, match=r"no runs of the claims' arms \(confirm-majority, .*these are of confirm-a"):
        evaluate_claims(study, read_claims(), None)


def test_first_majority(write):
    right = {**TABLES, (6, 0.6): [[0, 0, 0, 0], [0, 0, 0, 0]]}
    worse = {where: codes for where, codes in right.items() if where[0] == 6} | {
        (0, t): [[1] * (4 if t else 1), [0] * (4 if t else 1)] for t in (0.0, 0.3, 0.6, 1.0)
    }  # maj .5 before, avg 1 after
    for replicate in (0, 1):
        folder = write("confirm-a", replicate, tables=worse)
        write("confirm-b", replicate, tables=right, reward="oracle")  # maj 1 before: a draw is not exceeding
    write("confirm-c", 0, tables=worse, reward="format")
    table = first_majority(load(folder)).set_index("name")
    assert table["mean"].to_dict() == {"confirm-a": 0.5, "confirm-b": 0.0, "confirm-c": 0.5}
    assert table["verdict"].to_dict() == {
        "confirm-a": "first majority exceeded",
        "confirm-b": "first majority not exceeded",
        "confirm-c": "too few replicates",
    }


def test_runs_of_one_draw_are_one_replicate_of_the_first_majority(write):
    base = {(0, t): [[1] * (4 if t else 1), [0] * (4 if t else 1)] for t in (0.0, 0.3, 0.6, 1.0)}  # maj .5
    right, wrong = ({**base, (6, 0.0): [[c], [c]], (6, 0.6): [[c] * 4, [c] * 4]} for c in (0, 1))
    for rl in (0, 1, 2):
        folder = write("confirm-a", 0, rl=rl, tables=right if rl else wrong)  # .5, .5 and -.5: a mean of 1/6
    (row,) = first_majority(load(folder)).to_dict("records")
    assert (row["n"], row["mean"], row["verdict"]) == (1, pytest.approx(1 / 6), "too few replicates")
    write("confirm-a", 1, tables=right)
    (row,) = first_majority(load(folder)).to_dict("records")
    assert (row["n"], row["mean"]) == (2, pytest.approx((1 / 6 + 1 / 2) / 2))


def ttrl(*arguments):
    command = [sys.executable, "-m", "ttrl_repro.cli", "claims", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command(study_folder, claims_file, tmp_path):
    out = tmp_path / "claims.md"
    done = ttrl(study_folder, "--claims", claims_file, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == out.read_text() == report(study_folder, claims_file)


def test_the_command_refuses_foreign_records(study_folder, claims_file):
    record = Record.reopen(study_folder / "confirm-b" / "r9")
    del record.manifest["laboratory"]
    record.save_manifest()
    done = ttrl(study_folder, "--claims", claims_file)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"ttrl: {record.folder}: not a record of the frozen laboratory: it does not say")


def test_deleted_runs_are_missing(study_folder, claims_file):
    shutil.rmtree(study_folder / "confirm-b" / "r4")
    table = evaluate_claims(load(study_folder), read_claims(claims_file), None)
    assert table["reason"][0] == "1 of 10 replicates are missing"
    assert list(table["verdict"]) == ["insufficient"] * 2
