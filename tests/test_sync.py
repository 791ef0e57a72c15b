"""`ttrl sync`: what offline runs logged is compared with the record, uploaded, and counted on the server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from ttrl_repro.config import Experiment
from ttrl_repro.errors import UserError
from ttrl_repro.run import resume, start
from ttrl_repro.sync import (
    differences,
    expected_steps,
    is_checked,
    offline_folders,
    read_offline,
    records_in,
    sync,
    whole,
)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A finished run of two steps with an offline W&B run, resumed once, so that it has two."""
    folder = tmp_path_factory.mktemp("runs") / "record"
    content = {
        "name": "mirrored",
        "task": "mini-30",
        "model": "mini-xs",
        "rollout": {"votes": 4, "trained": 2, "max_new_tokens": 48},
        "train": {"steps": 3, "questions_per_step": 6, "learning_rate": 1e-3, "checkpoint_every": 1},
        "evaluate": {"every": 2, "k": 2, "votes": 2, "base_temperatures": [0.6], "fresh": False},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        start(Experiment.model_validate(content), folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        shutil.rmtree(folder / "checkpoints" / "checkpoint-3")
        (folder / "manifest.json").write_text(json.dumps({**manifest, "state": "running"}))
        resume(folder)
    return folder


class FakeServer:
    """Keeps what it is sent, as W&B does: folders with one id are one run. `lost`: steps that it forgets."""

    def __init__(self, lost=0):
        self.runs, self.lost = {}, lost

    def upload(self, folder, entity):
        logged = read_offline([folder])
        name = f"{entity or 'somebody'}/{logged.project}/{logged.run_id}"
        self.runs.setdefault(name, {}).update(logged.history)
        (folder / f"{folder.name}.wandb.synced").touch()
        return name

    def steps(self, run):
        return len(self.runs[run]) - self.lost


@pytest.fixture
def copy(record, tmp_path):
    shutil.copytree(record, tmp_path / "runs" / "record")
    return tmp_path / "runs" / "record"


def test_offline_files_hold_what_the_record_holds(record):
    assert len(offline_folders(record)) == 2
    logged = read_offline(offline_folders(record))
    assert logged.history.keys() == expected_steps(record) == {0, 1, 2, 3}
    assert differences(record, logged) == []
    assert "eval/mini-30/train/greedy" in logged.history[2]
    assert logged.project == "ttrl-repro"


def test_every_finished_run_is_uploaded_once_and_counted(copy):
    server, said = FakeServer(), []
    assert sync([copy.parent], server, say=said.append) == 1
    (run,) = server.runs
    assert said == [f"{copy}: {run}, 4 steps"]
    assert sync([copy.parent], server, say=said.append) == 0
    assert said[-1] == f"{copy}: uploaded before"
    assert sync([copy.parent], server, again=True, say=said.append) == 1


def test_a_server_that_lost_steps_is_an_error(copy):
    for _ in range(2):  # what failed its check is not taken for done
        with pytest.raises(UserError, match=r"W&B has 3 steps of somebody/ttrl-repro/.*, the record 4"):
            sync([copy.parent], FakeServer(lost=1))
    assert sync([copy.parent], FakeServer()) == 1


def edit_metrics(copy, change):
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(change(lines)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [line.replace('"step": 3', '"step": 4') for line in lines], "W&B lacks steps 4"),
        (lambda lines: lines[:2], None),
        (lambda lines: [lines[0].replace('"majority_ratio": 0', '"majority_ratio": 1'), *lines[1:]],
         "step 1: majority_ratio on W&B are not the record's"),
    ],
)  # fmt: skip
def test_what_is_not_as_its_record_is_not_uploaded(copy, change, message):
    edit_metrics(copy, change)
    (copy / "eval" / "step-000003.parquet").unlink()
    server = FakeServer()
    with pytest.raises(UserError, match=message or "W&B has steps 3, which the record has not"):
        sync([copy.parent], server)
    assert not server.runs


@pytest.mark.parametrize("left", ["nothing", "a torn file"])
def test_what_a_killed_run_had_not_written_is_logged_by_the_next(copy, left):
    first, second = offline_folders(copy)
    (path,) = first.glob("*.wandb")
    path.unlink()
    if left == "a torn file":
        path.write_bytes(b":W&B\x00\x00\x00")
    assert read_offline([second]).history.keys() == {0, 1, 2, 3}
    assert "time/seconds" in read_offline([second]).history[1]
    assert whole(copy) == [second]
    assert sync([copy.parent], FakeServer()) == 1
    assert is_checked(copy)


def test_one_bad_run_keeps_no_other_from_being_uploaded(copy):
    for name in ("a", "b"):
        shutil.copytree(copy, copy.parent / name)
        edit_metrics(copy.parent / name, lambda lines: [line.replace('"step": 3', '"step": 4') for line in lines])
    said = []
    with pytest.raises(UserError, match=r"2 runs are not on W&B as they should be \(above\); 1 are"):
        sync([copy.parent], FakeServer(), say=said.append)
    assert [line.split(": ")[1] for line in said[1:]] == ["not uploaded", "not uploaded"]


def test_unfinished_runs_are_left_alone(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "state": "interrupted"}))
    assert records_in([copy.parent]) == []


def test_a_file_that_is_no_run_of_wandb_is_named(copy):
    folder = offline_folders(copy)[0]
    (path,) = folder.glob("*.wandb")
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"offline-run-.*: (W&B cannot read it|holds no W&B run)"):
        read_offline([folder])


def test_without_a_login_the_command_says_what_to_do(copy, monkeypatch):
    for name, value in (("WANDB_API_KEY", ""), ("HOME", str(copy)), ("WANDB_BASE_URL", "http://127.0.0.1:1")):
        monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, "-m", "ttrl_repro.cli", "sync", str(copy.parent)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "W&B" in done.stderr
    assert not list(copy.rglob("*.synced"))
