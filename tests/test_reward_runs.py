"""Whole runs with other rewards: through the command line, resumed, on two processes, refused."""

import json
import os
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import yaml

from tests.test_run import config, same_outcome, set_state
from ttrl_repro.config import Experiment
from ttrl_repro.records import Record, read_jsonl
from ttrl_repro.run import resume, start

TRAIN = {"steps": 4, "questions_per_step": 10, "learning_rate": 1e-3, "checkpoint_every": 2}


def small(**changes):
    evaluate = {"every": 4, "k": 2, "votes": 2, "base_temperatures": [0.6], "fresh": False}
    return config(**{"train": TRAIN, "evaluate": evaluate, **changes})


RESUMED = {
    "frozen": {"reward": "frozen"},
    "noisy oracle": {"reward": {"name": "noisy_oracle", "correct": 0.5, "wrong": "random"}},
    "random": {"reward": "random"},
    "weighted": {"reward": {"name": "weighted", "by": "self_certainty"}},
    "wrong labels alone": {"train": {**TRAIN, "only": "wrong_label"}},
}


@pytest.mark.parametrize("name", RESUMED)
def test_other_rewards_resume_bitwise(tmp_path, name):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    start(Experiment.model_validate(small(**RESUMED[name])), whole)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "checkpoint-4")
    set_state(cut, "interrupted")
    resume(cut)
    same_outcome(whole, cut, "checkpoint-4")
    if name == "frozen":
        assert (whole / "frozen_labels.json").read_bytes() == (cut / "frozen_labels.json").read_bytes()


def test_frozen_labels_are_voted_again_by_the_base_if_they_are_lost(tmp_path):
    """On a resume the checkpoint is loaded after that: the weights that vote are the base's."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    start(Experiment.model_validate(small(reward="frozen")), whole)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "checkpoint-4")
    (cut / "frozen_labels.json").unlink()
    set_state(cut, "interrupted")
    resume(cut)
    assert (whole / "frozen_labels.json").read_bytes() == (cut / "frozen_labels.json").read_bytes()
    same_outcome(whole, cut, "checkpoint-4")


def test_two_processes_freeze_the_same_labels(tmp_path):
    experiment = tmp_path / "frozen.yaml"
    content = small(reward="frozen", train={**TRAIN, "steps": 1})
    experiment.write_text(yaml.safe_dump(content))
    start(Experiment.model_validate(content), tmp_path / "one")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, "-m", "ttrl_repro.cli", "run", str(experiment), "--out", str(tmp_path / "two")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / name / "frozen_labels.json").read_text()) for name in ("one", "two"))
    assert one == two
    first, second = (read_jsonl(tmp_path / name / "metrics.jsonl")[0] for name in ("one", "two"))
    assert first["target_accuracy"] == second["target_accuracy"]
    assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-3)


def test_the_record_names_the_label_that_was_taught(tmp_path):
    reward = {"name": "noisy_oracle", "correct": 0.5}
    start(Experiment.model_validate(small(reward=reward, train={**TRAIN, "steps": 1})), tmp_path / "run")
    votes = pq.read_table(tmp_path / "run" / "votes.parquet").to_pylist()
    (row,) = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert row["kept_rate"] == 1
    assert 0 <= row["target_accuracy"] <= 1
    assert {"right_label_reward_accuracy", "wrong_label_reward_accuracy", "confidently_wrong"} <= row.keys()
    assert any(vote["target_key"] not in (vote["label_key"], None) for vote in votes)
    assert all(vote["kept"] for vote in votes)


def test_a_run_that_began_without_the_newer_columns_goes_on(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    start(Experiment.model_validate(small()), whole)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "checkpoint-4")
    table = pq.read_table(cut / "votes.parquet")
    pq.write_table(table.drop_columns(["target_key", "kept"]), cut / "votes.parquet")
    set_state(cut, "interrupted")
    resume(cut)
    assert Record.reopen(cut).manifest["state"] == "finished"
    found = pq.read_table(cut / "votes.parquet")
    assert found["label_key"].equals(table["label_key"])
    assert found["kept"].null_count == 20  # of the two steps before the cut


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reward=magic"], "reward: unknown reward 'magic'; known: 'majority', 'weighted', 'soft'"),
        (["reward=noisy_oracle"], "reward: 'noisy_oracle' needs a setting: {name: noisy_oracle, correct: ...}"),
        (["reward=noisy_oracle", "reward.correct=2"], "reward: correct: Input should be less than or equal to 1"),
        (["reward=gated", "reward.least=1"], "reward: least: unknown setting of 'gated'; known: least_ratio"),
        (["reward.least_ratio=0.5"], "reward: least_ratio: unknown setting of 'majority'; known: none"),
        (["reward=weighted", "reward.by=length"], "reward: by: Input should be 'mean_logprob' or 'self_certainty'"),
        (["reward=entropy", "rollout.engine=vllm"], "reward: 'entropy' needs the distributions that tokens come from"),
        (
            ["reward=weighted", "reward.by=self_certainty", "rollout.engine=vllm"],
            "use rollout.engine 'auto', 'cpu' or 'transformers'",
        ),
        (
            ["reward=entropy", "algorithm=prime"],
            "algorithm: 'prime' needs rewards from 0 to 1, which those of 'entropy'",
        ),
        (
            ["reward=format", "train.only=wrong_label"],
            "train.only: 'wrong_label' needs labels, and reward 'format' has",
        ),
        (["train.only=lucky"], "train.only: Input should be 'all', 'wrong_label' or 'right_label'"),
        (["task=UNLABELLED", "reward=oracle"], "reward: 'oracle' reads true labels"),
        (["task=UNLABELLED", "reward=noisy_oracle", "reward.correct=0.5"], "reward: 'noisy_oracle' reads true labels"),
        (["task=UNLABELLED", "train.only=right_label"], "train.only: 'right_label' reads true labels"),
    ],
)
def test_what_cannot_be_rewarded_is_refused_with_nothing_written(tmp_path, arguments, message, monkeypatch, capsys):
    from ttrl_repro import cli

    questions = tmp_path / "mine.jsonl"
    questions.write_text("".join(json.dumps({"problem": f"{i + 3}+{i}*2="}) + "\n" for i in range(10)))
    experiment, out = tmp_path / "e.yaml", tmp_path / "run"
    experiment.write_text(yaml.safe_dump(small()))
    given = [argument.replace("UNLABELLED", str(questions)) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["ttrl", "run", str(experiment), *given, "--out", str(out)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("ttrl: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert not out.exists()
