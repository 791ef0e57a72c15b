"""Copies of records that are still being written, and publishing."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ttrl_repro.checkpoints import seal
from ttrl_repro.errors import UserError
from ttrl_repro.records import SCHEMA_VERSION
from ttrl_repro.sweeps import folders as module
from ttrl_repro.sweeps.folders import Folders, copy_record


def write_manifest(record, state):
    (record / "manifest.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION, "state": state}))


@pytest.fixture
def record(tmp_path):
    """A record that is being written: a sealed checkpoint of step 1, one of step 2 that is not, and the rest."""
    source = tmp_path / "checkpoints" / "record"  # a name that must not be taken for the record's own folder
    for step, sealed in ((1, True), (2, False)):
        checkpoint = source / "checkpoints" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights").write_text("w")
        if sealed:
            seal(checkpoint)
    (source / "metrics.jsonl").write_text('{"step": 1}\n')
    (source / "samples").mkdir()
    (source / "samples" / "step-000001.parquet").write_text("p")
    (source / ".manifest.json.partial").touch()
    (source / ".lock").touch()
    (source / "wandb").mkdir()
    (source / "wandb" / "run.wandb").write_text("w")
    (source / "wandb" / "latest-run").symlink_to(source / "wandb")
    (source / "wandb" / "debug-core.log").symlink_to("/nowhere/at/all")
    write_manifest(source, "running")
    return source


def test_a_copy_takes_what_is_whole_and_shares_what_never_changes(record, tmp_path):
    assert copy_record(record, tmp_path / "b")
    found = {path.relative_to(tmp_path / "b").as_posix() for path in (tmp_path / "b").rglob("*") if not path.is_dir()}
    assert found == {
        "manifest.json",
        "metrics.jsonl",
        "samples/step-000001.parquet",
        "checkpoints/checkpoint-1/weights",
        "checkpoints/checkpoint-1/checksums.json",
        "wandb/run.wandb",
    }
    with (record / "metrics.jsonl").open("a") as late:  # of the process that the copy's claim took over from
        late.write('{"step": 2}\n')
    assert (tmp_path / "b" / "metrics.jsonl").read_text() == '{"step": 1}\n'
    for name, shared in (
        ("checkpoints/checkpoint-1/weights", True),
        ("samples/step-000001.parquet", True),
        ("metrics.jsonl", False),
        ("wandb/run.wandb", False),
    ):
        assert os.path.samefile(record / name, tmp_path / "b" / name) == shared, name


def test_a_checkpoint_is_never_later_than_the_metrics_beside_it(record, tmp_path, monkeypatch):
    # The run goes on while it is copied: whenever a file has been copied, it writes step 2 with its checkpoint.
    copy = module._link_or_copy

    def copy_while_it_runs(source, target, path):
        copy(source, target, path)
        (record / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
        seal(record / "checkpoints" / "checkpoint-2")

    monkeypatch.setattr(module, "_link_or_copy", copy_while_it_runs)
    assert copy_record(record, tmp_path / "b")
    checkpoints = sorted(path.name for path in (tmp_path / "b" / "checkpoints").iterdir())
    assert '"step": 2' in (tmp_path / "b" / "metrics.jsonl").read_text() or checkpoints == ["checkpoint-1"]


def test_a_record_that_ends_while_it_is_copied_is_not_taken_for_finished(record, tmp_path, monkeypatch):
    copy = module._link_or_copy

    def copy_while_it_ends(source, target, path):
        copy(source, target, path)
        write_manifest(record, "finished")

    monkeypatch.setattr(module, "_link_or_copy", copy_while_it_ends)
    assert copy_record(record, tmp_path / "b")
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["state"] == "running"


def test_a_file_that_goes_away_meanwhile_starts_the_copy_again(record, tmp_path, monkeypatch):
    copy, gone = module._link_or_copy, []

    def copy_while_it_prunes(source, target, path):
        if not gone:
            gone.append(path)
            raise FileNotFoundError(path)
        copy(source, target, path)

    monkeypatch.setattr(module, "_link_or_copy", copy_while_it_prunes)
    assert copy_record(record, tmp_path / "b")
    assert (tmp_path / "b" / "metrics.jsonl").exists()
    gone.clear()
    monkeypatch.setattr(module, "_link_or_copy", lambda *_: (_ for _ in ()).throw(FileNotFoundError()))
    with pytest.raises(UserError, match="changes too fast to be copied"):
        copy_record(record, tmp_path / "c")


def test_a_full_disk_is_said_at_once(record, tmp_path, monkeypatch):
    calls = []

    def full(*_):
        calls.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_link_or_copy", full)
    with pytest.raises(OSError, match="No space left"):
        copy_record(record, tmp_path / "b")
    assert len(calls) == 1


def test_an_earlier_attempt_serves_where_the_newest_is_damaged(record, tmp_path, capsys):
    folders = Folders(tmp_path / "sweep")
    for token, content in ((1, None), (3, "")):  # the second claim left nothing
        attempt = folders.attempt("cell", token)
        assert copy_record(record, attempt) or True
        if content is not None:
            (attempt / "manifest.json").write_text(content)
    adopted = folders.adopt("cell", 4, 3)
    assert adopted == folders.attempt("cell", 4)
    assert (adopted / "metrics.jsonl").is_file()
    assert "passed over: " in capsys.readouterr().out
    assert folders.adopt("other", 2, 1) is None


def test_what_was_accepted_is_published_and_all_attempts_go(record, tmp_path):
    folders = Folders(tmp_path / "sweep")
    for token in (1, 2):
        folders.attempt("cell", token).parent.mkdir(parents=True, exist_ok=True)
        copy_record(record, folders.attempt("cell", token))
    (folders.attempt("cell", 2) / "which").write_text("second")
    assert folders.attempted() == {"cell"}
    for _ in range(2):
        folders.publish("cell", 2)
        assert (folders.published("cell") / "which").read_text() == "second"
        assert folders.attempted() == set()


def test_what_has_its_place_is_never_touched_again(record, tmp_path):
    """An agent that lost the race to publish, or comes from before the database was lost, deletes nothing."""
    folders = Folders(tmp_path / "sweep")
    for token, which in ((1, "first"), (2, "second")):
        folders.attempt("cell", token).parent.mkdir(parents=True)
        copy_record(record, folders.attempt("cell", token))
        (folders.attempt("cell", token) / "which").write_text(which)
    os.renames(folders.attempt("cell", 1), folders.published("cell"))
    folders.publish("cell", 2)
    assert (folders.published("cell") / "which").read_text() == "first"
    assert folders.attempted() == set()


def test_many_agents_publish_one_record(record, tmp_path):
    folders = Folders(tmp_path / "sweep")
    for round_ in range(20):
        cell = f"cell{round_}"
        folders.attempt(cell, 1).parent.mkdir(parents=True, exist_ok=True)
        copy_record(record, folders.attempt(cell, 1))
        ready = threading.Barrier(4)
        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(lambda: (ready.wait(), folders.publish(cell, 1))) for _ in range(4)]  # noqa: B023
        assert [one.exception() for one in done] == [None] * 4
        assert (folders.published(cell) / "manifest.json").is_file()
