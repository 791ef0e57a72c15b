"""Records that are damaged, foreign or doubled: named, refused or skipped, never averaged in silence."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from analysis import load
from analysis.arms import read_arms
from tests.synthetic_study import write_run
from ttrl_repro.errors import UserError
from ttrl_repro.records import Record


@pytest.fixture
def study(tmp_path):
    """Two replicates of a cell, whole and of the frozen laboratory."""
    arm = read_arms()["oracle"].experiment
    for replicate in (0, 1):
        seeds = arm.seeds.model_copy(update={"base": replicate, "draw": replicate, "rl": replicate})
        run = arm.model_copy(update={"seeds": seeds})
        write_run(tmp_path / "study" / f"r{replicate}", run, np.random.default_rng(replicate), whole=True)
    return tmp_path / "study"


def edit(path, change):
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def cut(path):
    path.write_text(path.read_text()[:-9])


def with_nan(path):
    path.write_text(path.read_text().replace('"entropy": ', '"entropy": NaN, "x": ', 1))


def without_step_7(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:6], *lines[7:]]) + "\n")


def twice(path):
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")


def with_schema_0(path):
    edit(path, lambda manifest: manifest.update(schema_version=0))


def with_another_rate(path):
    path.write_text(path.read_text().replace("0.0001", "0.001"))


def gone(path):
    path.unlink()


def no_parquet(path):
    path.write_text("x")


DAMAGE = {
    "a line that is cut off": ("metrics.jsonl", cut, r"metrics\.jsonl, line 40: not valid JSON"),
    "a metric that is NaN": ("metrics.jsonl", with_nan, r"metrics\.jsonl, line 1: entropy is nan, not a finite"),
    "a step twice": ("metrics.jsonl", twice, r"metrics\.jsonl, line 41: step 40 was there before"),
    "a step without a line": ("metrics.jsonl", without_step_7, r"metrics\.jsonl: no line of step 7, though"),
    "no evaluation on the way": ("eval/step-000020.parquet", gone, r"step-000020\.parquet: missing"),
    "no evaluation of the end": ("eval/step-000040.parquet", gone, r"step-000040\.parquet: missing"),
    "no votes": ("votes.parquet", gone, r"votes\.parquet: missing, though the run is finished"),
    "votes that are no parquet": ("votes.parquet", no_parquet, r"votes\.parquet: cannot be read"),
    "another schema": ("manifest.json", with_schema_0, "schema_version is 0"),
    "an edited config": ("config.yaml", with_another_rate, "it was edited after the run began"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_refused_by_name_or_skipped_and_named(study, damage):
    name, spoil, complaint = DAMAGE[damage]
    spoil(study / "r0" / name)
    with pytest.raises(UserError, match=complaint) as refused:
        load(study)
    assert "r0" in str(refused.value)
    rest = load(study, skip_damaged=True)
    assert rest.runs["run"].tolist() == ["r1"]
    assert list(rest.left_out) == ["r0"]
    assert set(rest.metrics["run"]) == set(rest.answers["run"]) == set(rest.votes["run"]) == {"r1"}


def test_a_run_that_is_being_written_may_end_in_half_a_line(study):
    edit(study / "r0" / "manifest.json", lambda manifest: manifest.update(state="running"))
    path = study / "r0" / "metrics.jsonl"
    whole = len(path.read_text().splitlines())
    cut(path)
    found = load(study)
    assert len(found.metrics[found.metrics["run"] == "r0"]["step"].unique()) == whole - 1


def test_the_same_replicate_twice_is_refused(study):
    shutil.copytree(study / "r0", study / "r2")
    with pytest.raises(UserError, match="the same replicate of one cell twice: r0, r2"):
        load(study)


def test_other_weights_than_the_frozen_are_refused_where_the_laboratory_counts(study):
    edit(study / "r0" / "manifest.json", lambda manifest: manifest["model"].update(weights="f" * 16))
    with pytest.raises(
        UserError, match=r"r0: not a record of the frozen laboratory: its weights of mini-xs, base seed 0"
    ):
        load(study, frozen=True)
    found = load(study)
    assert list(found.foreign) == ["r0"]
    assert load(study / "r1", frozen=True).runs["run"].tolist() == ["r1"]


def test_if_every_record_is_damaged_there_is_nothing_to_load(study):
    for run in ("r0", "r1"):
        cut(study / run / "metrics.jsonl")
    with pytest.raises(UserError, match=r"every record here is damaged, as .*r0"):
        load(study, skip_damaged=True)


def test_attempts_of_a_sweep_are_no_runs(study):
    shutil.copytree(study / "r0", study / "attempts" / "1" / "r0")
    assert load(study).runs["run"].tolist() == ["r0", "r1"]


def test_whole_records_load(study):
    found = load(study, frozen=True)
    assert found.runs["run"].tolist() == ["r0", "r1"]
    assert (found.left_out, found.foreign) == ({}, {})
    assert found.configs["r1"] == Record.reopen(study / "r1").experiment()
