import json

import pyarrow.parquet as pq
import pytest

from ttrl_repro.errors import UserError
from ttrl_repro.records import Record, keep_all, keep_compact, read_eval, read_jsonl

VOTE = {
    "question_id": "q", "label": "1", "label_key": "1", "top_count": 3, "second_count": 1, "gold_count": None,
    "label_correct": None, "n": 4, "classes": 2, "tied": 1, "abstained": 0,
}  # fmt: skip


@pytest.fixture
def record(tmp_path, experiment):
    return Record.create(tmp_path / "run", experiment, {"model": {}, "task": {}})


def add(record, *steps):
    for step in steps:
        record.write_votes(step, [{"step": step, **VOTE}])
        record.append("metrics.jsonl", {"step": step, "majority_ratio": 0.75})
        record.append("timings.jsonl", {"step": step, "seconds": 1.0})


def steps(record):
    return pq.read_table(record.folder / "votes.parquet")["step"].to_pylist()


def test_close_merges_the_votes(record):
    add(record, 1, 2, 3)
    record.close("finished")
    assert steps(record) == [1, 2, 3]
    assert not (record.folder / "votes").exists()
    manifest = json.loads((record.folder / "manifest.json").read_text())
    assert manifest["state"] == "finished"
    assert manifest["ended"] >= manifest["created"]


@pytest.mark.parametrize("closed", [True, False])  # interrupted, or killed
def test_rewind_drops_what_came_later(record, closed):
    add(record, 1, 2, 3)
    if closed:
        record.close("interrupted")
    (record.folder / "predictions.jsonl").write_text("{}\n")
    record.rewind(2)
    assert [row["step"] for row in read_jsonl(record.folder / "metrics.jsonl")] == [1, 2]
    assert not (record.folder / "predictions.jsonl").exists()
    assert Record.reopen(record.folder).manifest["steps_done"] == 2
    add(record, 3)
    record.close("finished")
    assert steps(record) == [1, 2, 3]


def test_rewind_after_a_kill_between_merging_and_removing_the_parts(record):
    add(record, 1, 2)
    parts = {path.name: path.read_bytes() for path in (record.folder / "votes").iterdir()}
    record.close("interrupted")
    (record.folder / "votes").mkdir()
    for name, content in parts.items():
        (record.folder / "votes" / name).write_bytes(content)
    add(record, 3)  # a part of its own, which must stay
    record.rewind(3)
    record.close("finished")
    assert steps(record) == [1, 2, 3]


def test_rewind_to_the_start(record):
    add(record, 1)
    record.rewind(-1)
    assert Record.reopen(record.folder).manifest["steps_done"] == 0
    assert read_jsonl(record.folder / "metrics.jsonl") == []


def test_rewind_forgives_a_line_that_a_kill_cut_off(record):
    add(record, 1)
    with (record.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "major')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2: not valid JSON"):
        read_jsonl(record.folder / "metrics.jsonl")
    record.rewind(1)
    assert len(read_jsonl(record.folder / "metrics.jsonl")) == 1


def test_nan_cannot_be_written(record):
    with pytest.raises(ValueError):
        record.append("metrics.jsonl", {"step": 1, "loss": float("nan")})


def test_damaged_or_foreign_records_are_refused(record):
    path = record.folder / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "schema_version": 0}))
    with pytest.raises(UserError, match="schema_version is 0, this program reads 1"):
        Record.reopen(record.folder)
    path.write_text("{")
    with pytest.raises(UserError, match=r"manifest.json: not valid JSON"):
        Record.reopen(record.folder)


def test_the_config_of_a_record(record, experiment):
    assert Record.reopen(record.folder).experiment() == experiment
    (record.folder / "config.yaml").write_text("name: [")
    with pytest.raises(UserError, match="cannot read the run's config"):
        Record.reopen(record.folder).experiment()


def test_the_manifest_says_what_ran(record, experiment):
    manifest = record.manifest
    assert manifest["config_hash"] == experiment.cell_hash()
    assert manifest["seeds"] == {"base": 0, "draw": 0, "rl": 0}
    assert manifest["environment"]["packages"]["torch"]
    assert manifest["environment"]["cores"] >= 1


def test_a_compact_record_has_what_figures_need(record, tmp_path):
    add(record, 1)
    record.write_samples(1, [])
    record.write_eval(0, [])
    with pytest.raises(UserError, match="this run is running; only a finished one is kept"):
        keep_compact(record.folder, tmp_path / "kept")
    record.close("finished")
    record.manifest["command"] = ["ttrl", "run", "x.yaml", "--out", "/home/me/r0"]
    record.save_manifest()
    keep_compact(record.folder, tmp_path / "kept")
    kept = json.loads((tmp_path / "kept" / "manifest.json").read_text())
    assert kept == {**record.manifest, "command": ["ttrl", "run", "x.yaml", "--out", "r0"]}
    names = {str(path.relative_to(tmp_path / "kept")) for path in (tmp_path / "kept").rglob("*")}
    assert names == {
        "manifest.json", "config.yaml", "metrics.jsonl", "votes.parquet", "eval", "eval/step-000000.parquet",
    }  # fmt: skip
    with pytest.raises(UserError, match="is not empty"):
        keep_compact(record.folder, tmp_path / "kept")


def test_the_finished_of_many_are_kept_once(tmp_path, experiment):
    for place in ("votes/runs/a", "confirm/arm/r0", "votes/attempts/1/b", "votes/runs/c"):
        record = Record.create(tmp_path / "runs" / place, experiment, {})
        add(record, 1)
        record.write_eval(0, [])
        if not place.endswith("c"):
            record.close("finished")
    target = tmp_path / "kept"
    assert keep_all(tmp_path / "runs", target) == (2, 0)
    assert sorted(str(path.parent.relative_to(target)) for path in target.rglob("manifest.json")) == [
        "confirm/arm/r0",
        "votes/a",
    ]
    assert keep_all(tmp_path / "runs", target) == (0, 2)
    with pytest.raises(UserError, match="no finished record here"):
        keep_all(tmp_path / "none", tmp_path / "other")


def test_a_compact_evaluation_has_keys_and_no_answers(record, tmp_path):
    add(record, 1)
    row = {"step": 0, "task": "t", "split": "train", "protocol": "sampled", "temperature": 0.6, "top_p": 0.95}
    row |= {"question_id": "q", "sample": 0, "answer": "7", "key": "7", "gold_key": "7", "tokens": 3, "finished": True}
    record.write_eval(0, [row])
    record.close("finished")
    keep_compact(record.folder, tmp_path / "kept")
    (kept,) = read_eval(tmp_path / "kept")
    (before,) = read_eval(record.folder)
    assert kept == {**before, "answer": None}
