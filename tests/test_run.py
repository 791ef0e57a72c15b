"""Real end-to-end runs of the shipped mini-xs: through the command line, killed, interrupted, resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from ttrl_repro import laboratory
from ttrl_repro import run as runner
from ttrl_repro.adapters import with_adapters
from ttrl_repro.config import Experiment, Lora
from ttrl_repro.errors import Interrupted, UserError
from ttrl_repro.models import load_model
from ttrl_repro.records import Record, git_state, read_eval, read_jsonl
from ttrl_repro.run import resume, start
from ttrl_repro.tracking import sweep_of_environment, wandb_mode

STEPS = 6


def config(**changes: object) -> dict:
    return {
        "name": "e2e",
        "task": "mini-30",
        "model": "mini-xs",
        "rollout": {"votes": 16, "trained": 8, "max_new_tokens": 60},
        "train": {
            "steps": STEPS,
            "questions_per_step": 10,
            "updates_per_step": 2,
            "microbatch": 20,
            "learning_rate": 1e-3,
            "checkpoint_every": 2,
        },
        "evaluate": {"every": 3, "k": 4, "votes": 8, "base_temperatures": [0.6, 1.0], "tasks": []},
        **changes,
    }


def ttrl(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ttrl_repro.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def launch(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ttrl_repro.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, lines: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while not path.exists() or path.read_text().count("\n") < lines:
        if process.poll() is not None:
            pytest.fail(f"the run ended early: {process.communicate()[1]}")
        assert time.monotonic() < deadline
        time.sleep(0.02)


OTHERS = {
    "whole task, KL, constant rate": config(
        train={"steps": 4, "learning_rate": 1e-3, "schedule": "constant", "warmup_updates": 2, "checkpoint_every": 2},
        algorithm={"kl": 0.05},
    ),
    "adaptive voting": config(
        train={"steps": 4, "questions_per_step": 5, "learning_rate": 1e-3, "checkpoint_every": 2},
        rollout={
            "votes": 32,
            "trained": 8,
            "max_new_tokens": 60,
            "temperature": 0.5,
            "adaptive_error": 0.05,
            "adaptive_chunk": 8,
        },
    ),
    "PPO": config(
        train={"steps": 4, "learning_rate": 1e-3, "updates_per_step": 2, "checkpoint_every": 2}, algorithm="ppo"
    ),
    "PRIME": config(
        train={"steps": 4, "learning_rate": 1e-3, "checkpoint_every": 2},
        algorithm={"name": "prime", "reward_model_rate": 0.1},
    ),
    "KL with adapters": config(
        train={"steps": 4, "learning_rate": 1e-2, "checkpoint_every": 2}, algorithm={"kl": 0.05}, lora={"rank": 4}
    ),
    "PRIME with adapters": config(
        train={"steps": 4, "learning_rate": 1e-2, "checkpoint_every": 2},
        algorithm={"name": "prime", "reward_model_rate": 0.1},
        lora={"rank": 4},
    ),
    "nucleus, odd checkpoints": config(
        train={"steps": 4, "questions_per_step": 5, "learning_rate": 1e-3, "weight_decay": 0.1, "checkpoint_every": 3},
        rollout={"votes": 16, "trained": 8, "max_new_tokens": 60, "top_p": 0.9, "temperature": 0.8},
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_settings_resume_bitwise_too(tmp_path, name):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    experiment = Experiment.model_validate(OTHERS[name])
    last_checkpoint = f"checkpoint-{4 * experiment.train.updates_per_step}"
    start(experiment, whole)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / last_checkpoint)
    set_state(cut, "interrupted")
    resume(cut)
    same_outcome(whole, cut, last_checkpoint)
    last = read_jsonl(cut / "metrics.jsonl")[-1]
    if "KL" in name:
        assert last["kl"] > 0
    if "PRIME" in name:
        assert last["reward_model_loss"] < 0.693
    if "adapters" in name:
        assert ttrl("eval", cut, "mini-83", "--k", "4").returncode == 0


def set_state(folder: Path, state: str) -> None:
    record = Record.reopen(folder)
    record.manifest["state"] = state
    record.save_manifest()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """An undisturbed run, made in this process."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    start(Experiment.model_validate(config()), folder)
    return folder


def same_outcome(one: Path, other: Path, checkpoint: str = f"checkpoint-{2 * STEPS}") -> None:
    """Bitwise equality of weights, metrics, votes, samples, evaluations and predictions."""
    (last,) = (one / "checkpoints" / checkpoint).glob("*model.safetensors")  # or the adapters'
    weights, others = load_file(last), load_file(other / last.relative_to(one))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert tensor.equal(others[name]), name
    for name in ("metrics.jsonl", "predictions.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert pq.read_table(one / "votes.parquet").equals(pq.read_table(other / "votes.parquet"))
    for kind in ("samples", "eval"):
        parts = sorted(p.name for p in (one / kind).iterdir())
        assert parts == sorted(p.name for p in (other / kind).iterdir())
        for part in parts:
            assert pq.read_table(one / kind / part).equals(pq.read_table(other / kind / part))


def test_the_record_of_a_run(finished):
    manifest = Record.reopen(finished).manifest
    assert (manifest["state"], manifest["steps_done"], manifest["engine"]) == ("finished", STEPS, "cpu")
    assert manifest["cost"]["tokens_sampled"] > 0
    assert manifest["cost"]["flops"] > 0
    assert 1e8 < manifest["cost"]["peak_memory_bytes"] < 3e9
    metrics = read_jsonl(finished / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, STEPS + 1))
    for row in metrics:
        for name in ("label_accuracy", "reward_accuracy", "advantage_accuracy", "majority_ratio",
                     "ground_truth_ratio", "majority_voting_reward", "entropy", "pass@16"):  # fmt: skip
            assert 0 <= row[name] <= 3
    votes = pq.read_table(finished / "votes.parquet")
    assert len(votes) == 10 * STEPS
    assert {row["step"] for row in read_eval(finished)} == {0, 3, 6}
    predictions = [json.loads(line) for line in (finished / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions) == 30
    assert all(0 <= row["share"] <= 1 for row in predictions)
    experiment = yaml.safe_load((finished / "config.yaml").read_text())
    assert experiment["rollout"]["top_p"] == 1.0  # defaults are written out
    frozen = laboratory.read()
    assert (manifest["laboratory"], manifest["laboratory_reason"]) == (frozen.content_hash(), None)
    assert manifest["model"]["weights"] == frozen.weights["mini-xs-seed0"]
    assert manifest["model"]["recipe"] == frozen.recipes["mini-xs"]


@pytest.mark.parametrize("reason", ["its base is another", None])
def test_a_run_that_is_not_frozen_says_so(tmp_path, monkeypatch, capsys, reason):
    monkeypatch.setattr(laboratory, "in_force", lambda *_: (None, reason))
    monkeypatch.setattr(runner, "_run", lambda *_: None)
    manifest = start(Experiment.model_validate(config()), tmp_path / "run").manifest
    assert (manifest["laboratory"], manifest["laboratory_reason"]) == (None, reason)
    lines = [line for line in capsys.readouterr().err.splitlines() if "laboratory" in line]
    note = f"note: not of the frozen laboratory: {reason}; claims will refuse this run"
    assert lines == ([note] if reason else [])


def test_a_record_from_before_the_freeze_is_resumed(finished, tmp_path):
    folder = tmp_path / "older"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "checkpoints" / f"checkpoint-{2 * STEPS}")
    set_state(folder, "interrupted")
    record = Record.reopen(folder)
    del record.manifest["laboratory"], record.manifest["model"]["weights"], record.manifest["model"]["recipe"]
    record.save_manifest()
    resume(folder)
    same_outcome(finished, folder)
    assert "laboratory" not in Record.reopen(folder).manifest


@pytest.mark.parametrize(("where", "field"), [("model", "weights"), ("model", "recipe"), (None, "laboratory")])
def test_a_run_is_not_resumed_in_another_laboratory(finished, tmp_path, where, field):
    folder = tmp_path / "moved"
    shutil.copytree(finished, folder)
    set_state(folder, "interrupted")
    record = Record.reopen(folder)
    (record.manifest[where] if where else record.manifest)[field] = "0"
    record.save_manifest()
    with pytest.raises(UserError, match=f"the run began with {where or field} "):
        resume(folder)


def test_a_run_killed_in_the_middle_and_resumed_is_bitwise_equal(finished, tmp_path):
    experiment = tmp_path / "e2e.yaml"
    experiment.write_text(yaml.safe_dump(config()))
    folder = tmp_path / "killed"
    process = launch("run", experiment, "--out", folder)
    wait_for(folder / "metrics.jsonl", 3, process)  # past the checkpoint of step 2, before that of step 4
    process.kill()
    process.communicate()
    assert Record.reopen(folder).manifest["state"] == "running"
    # What a kill in the middle of a write leaves behind.
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "maj')
    torn = folder / "checkpoints" / "checkpoint-99"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    done = ttrl("resume", folder)
    assert done.returncode == 0, done.stderr
    assert Record.reopen(folder).manifest["state"] == "finished"
    same_outcome(finished, folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_checkpoints_and_closes_the_record(finished, tmp_path, number):
    experiment = tmp_path / "e2e.yaml"
    experiment.write_text(yaml.safe_dump(config()))
    folder = tmp_path / "stopped"
    process = launch("run", experiment, "--out", folder)
    wait_for(folder / "metrics.jsonl", 1, process)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 128 + number
    assert errors.strip().splitlines()[-1] == f"ttrl: interrupted; continue with `ttrl resume {folder}`"
    manifest = Record.reopen(folder).manifest
    assert manifest["state"] == "interrupted"
    assert 0 < manifest["steps_done"] < STEPS
    assert (folder / "votes.parquet").is_file()
    resume(folder)
    same_outcome(finished, folder)


def test_a_run_killed_before_its_first_checkpoint_starts_over(finished, tmp_path):
    folder = tmp_path / "early"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "checkpoints")
    set_state(folder, "running")
    resume(folder)
    same_outcome(finished, folder)
    # Its time from beginning to end is not what it took.
    (resumption,) = Record.reopen(folder).manifest["resumed"]
    assert resumption["git"] == git_state(tmp_path)
    assert "resumed" not in Record.reopen(finished).manifest


def test_a_run_killed_after_its_last_checkpoint_only_needs_its_end(finished, tmp_path):
    folder = tmp_path / "late"
    shutil.copytree(finished, folder)
    (folder / "predictions.jsonl").unlink()
    set_state(folder, "running")
    resume(folder)
    same_outcome(finished, folder)


def test_one_signal_during_the_base_s_evaluation_is_enough(tmp_path, monkeypatch):
    from ttrl_repro.evaluate import evaluate

    def interrupting(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr("ttrl_repro.run.evaluate", interrupting)
    with pytest.raises(Interrupted) as caught:
        start(Experiment.model_validate(config()), tmp_path / "run")
    assert caught.value.signal_number == signal.SIGTERM
    assert Record.reopen(tmp_path / "run").manifest["state"] == "interrupted"
    assert not (tmp_path / "run" / "eval").exists()


def test_the_next_checkpoint_is_not_trusted_blindly(finished, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(finished, folder)
    set_state(folder, "interrupted")
    weights = folder / "checkpoints" / f"checkpoint-{2 * STEPS}" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # one bit
    weights.write_bytes(content)
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"model.safetensors: corrupted .*; delete .* to go on from an earlier"):
        resume(folder)
    assert (folder / "metrics.jsonl").read_bytes() == before
    shutil.rmtree(weights.parent)  # as advised
    resume(folder)
    same_outcome(finished, folder)


def test_refusals_of_resume(finished, tmp_path):
    with pytest.raises(UserError, match="finished; there is nothing to resume"):
        resume(finished)
    with pytest.raises(UserError, match="no run record here"):
        resume(tmp_path)
    folder = tmp_path / "edited"
    shutil.copytree(finished, folder)
    set_state(folder, "interrupted")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("learning_rate: 0.001", "learning_rate: 0.002"))
    with pytest.raises(UserError, match="does not match the manifest"):
        resume(folder)


def test_a_record_in_use_is_refused(finished, tmp_path):
    from filelock import FileLock

    folder = tmp_path / "used"
    shutil.copytree(finished, folder)
    set_state(folder, "running")
    with FileLock(folder / ".lock"), pytest.raises(UserError, match="another process is writing this run"):
        resume(folder)


def test_a_second_signal_stops_at_once(tmp_path, monkeypatch):
    experiment = Experiment.model_validate(config())
    calls = 0

    def impatient(*args, **kwargs):
        nonlocal calls
        calls += 1
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # a launcher's echo of the same Ctrl-C
        time.sleep(1.1)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("unreachable")

    monkeypatch.setattr("ttrl_repro.run.evaluate", impatient)
    with pytest.raises(Interrupted):
        start(experiment, tmp_path / "run")
    assert calls == 1
    assert Record.reopen(tmp_path / "run").manifest["state"] == "interrupted"


def test_nan_is_not_averaged_in_silence(tmp_path, monkeypatch):
    monkeypatch.setattr("ttrl_repro.metrics.label_free", lambda *_: {"majority_ratio": float("nan")})
    with pytest.raises(FloatingPointError, match="step 1: majority_ratio is nan"):
        start(Experiment.model_validate(config()), tmp_path / "run")
    assert Record.reopen(tmp_path / "run").manifest["state"] == "failed"


def test_answers_in_the_questions_file_change_no_weight(tmp_path):
    """Through the whole runner: the same questions with answers, with wrong ones and without any."""
    weights = []
    for name, answer in (("right", lambda i: 3 * i + 3), ("wrong", lambda _: 7), ("none", None)):
        questions = tmp_path / name / "mine.jsonl"
        questions.parent.mkdir()
        rows = [{"problem": f"{i + 3}+{i}*2="} | ({"answer": answer(i)} if answer else {}) for i in range(4)]
        questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
        content = config(task=str(questions), train={"steps": 2, "learning_rate": 1e-3})
        start(Experiment.model_validate(content), tmp_path / name / "run")
        weights.append(load_file(tmp_path / name / "run" / "checkpoints" / "checkpoint-2" / "model.safetensors"))
    for other in weights[1:]:
        assert all(tensor.equal(other[key]) for key, tensor in weights[0].items())


def test_two_files_of_one_name_are_not_mixed_up(tmp_path):
    for folder, problem in (("a", "1+2="), ("b", "3+4=")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.jsonl").write_text(json.dumps({"problem": problem}))
    content = config(task=str(tmp_path / "a" / "test.jsonl"), train={"steps": 1})
    content["evaluate"] = {"tasks": [str(tmp_path / "b" / "test.jsonl")]}
    with pytest.raises(UserError, match="two tasks have one name"):
        start(Experiment.model_validate(content), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_base_that_never_boxes_is_warned_about(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ttrl_repro.evaluate.extract", lambda _, **__: None)
    start(Experiment.model_validate(config(train={"steps": 1, "questions_per_step": 10})), tmp_path / "run")
    assert "have no \\boxed{} answer" in capsys.readouterr().err


def test_a_sampler_that_is_not_the_trainer_s_model_stops_the_run(tmp_path, monkeypatch):
    from ttrl_repro.rollouts.cpu import CpuEngine

    sample = CpuEngine.sample

    def stale(self, *arguments):
        norm = self.model.model.norm.weight
        with torch.no_grad():
            norm.mul_(1.05)
            samples = sample(self, *arguments)
            norm.div_(1.05)
        return samples

    monkeypatch.setattr(CpuEngine, "sample", stale)
    with pytest.raises(RuntimeError, match="samples from another model"):
        start(Experiment.model_validate(config()), tmp_path / "run")
    assert Record.reopen(tmp_path / "run").manifest["state"] == "failed"


def test_unlabelled_questions_run_all_the_same(tmp_path):
    questions = tmp_path / "mine.jsonl"
    questions.write_text("".join(json.dumps({"id": f"q{i}", "problem": f"{i + 3}+{i}*2="}) + "\n" for i in range(4)))
    folder = tmp_path / "run"
    content = config(task=str(questions), train={"steps": 2, "learning_rate": 1e-3})
    start(Experiment.model_validate(content), folder)
    metrics = read_jsonl(folder / "metrics.jsonl")
    needs_gold = {"label_accuracy", "reward_accuracy", "advantage_accuracy", "ground_truth_ratio", "pass@16"}
    for row in metrics:
        assert not needs_gold & row.keys()
        assert row["majority_ratio"] > 0
    assert pq.read_table(folder / "votes.parquet")["gold_count"].null_count == 8
    predictions = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in predictions] == ["q0", "q1", "q2", "q3"]
    shown = ttrl("show", folder)
    assert shown.returncode == 0, shown.stderr
    assert "label_accuracy" not in shown.stdout
    assert "majority_ratio" in shown.stdout
    assert "predictions.jsonl" in shown.stdout


def test_a_local_model_of_another_architecture(tmp_path, tokenizer):
    """A LLaMA with a chat template, from a local folder, through `model.generate`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            intermediate_size=32,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    tokenizer.chat_template = None
    content = config(model=str(tmp_path / "llama"), train={"steps": 1, "questions_per_step": 6})
    content["prompt"] = {"suffix": ""}  # the tokenizer cannot write the usual one
    content["rollout"] = {"votes": 4, "trained": 2, "max_new_tokens": 8}
    content["evaluate"] = {"k": 2, "votes": 2, "base_temperatures": [0.6], "fresh": False}
    folder = tmp_path / "run"
    start(Experiment.model_validate(content), folder)
    manifest = Record.reopen(folder).manifest
    assert manifest["engine"] == "transformers"
    assert manifest["model"]["architecture"] == "llama"
    # It is not of the laboratory, so it cannot be frozen.
    assert (manifest["model"]["weights"], manifest["model"]["recipe"], manifest["laboratory"]) == (None, None, None)


WATCHED = config(
    train={
        "steps": 9,
        "updates_per_step": 2,
        "microbatch": 60,
        "learning_rate": 3e-4,
        "schedule": "constant",
        "checkpoint_every": 4,
    },
    evaluate={"every": 2, "k": 4, "votes": 8, "base_temperatures": [0.6], "fresh": False},
    watch={"stop": True, "reference_steps": 1, "patience": 2, "entropy_fall": 0.6},
)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A run that an alarm has stopped."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    start(Experiment.model_validate(WATCHED), folder)
    return folder


def test_an_alarm_stops_a_run_that_asks_for_it(stopped):
    manifest = Record.reopen(stopped).manifest
    (alarm,) = manifest["alarms"]
    step = alarm["step"]
    assert (manifest["state"], manifest["steps_done"]) == ("finished", step)
    assert 4 < step < 9
    assert step % 2, "the last step is to be one without a scheduled evaluation, nor a scheduled checkpoint"
    assert alarm["since"] == step - 1
    assert manifest["stopped_early"] == f"watch.stop: {alarm['reason']}"
    assert alarm["sign"] == "entropy"
    metrics = read_jsonl(stopped / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, step + 1))
    assert all(row["entropy"] < 0.6 * metrics[0]["entropy"] for row in metrics[-2:])
    rows = read_eval(stopped)
    assert {row["step"] for row in rows} == {0, *range(2, step, 2), step}
    assert max(row["sample"] for row in rows if row["step"] == step) == 7  # the votes of a last step
    assert max(row["sample"] for row in rows if row["step"] == 2) == 3
    assert len((stopped / "predictions.jsonl").read_text().splitlines()) == 30
    found = {path.name for path in (stopped / "checkpoints").iterdir()}
    # The sign was first seen in the rollout of step - 1, sampled from the weights after step - 2.
    assert found >= {f"checkpoint-{2 * step}", f"label-free-step-{step - 3}"}
    assert len([name for name in found if name.startswith("label-free")]) == 1
    shown = ttrl("show", stopped)
    assert f"{step} of 9 steps, finished; stopped early by watch.stop" in shown.stdout
    assert f"label-free checkpoint rule: step {step - 3}, the last evaluated before" in shown.stdout
    assert f"label-free-step-{step - 3}" in shown.stdout
    with pytest.raises(UserError, match="finished; there is nothing to resume"):
        resume(stopped)


def test_without_stop_the_same_alarm_is_only_written_down(stopped, tmp_path):
    content = {**WATCHED, "watch": {**WATCHED["watch"], "stop": False}}
    start(Experiment.model_validate(content), tmp_path / "run")
    manifest, early = (Record.reopen(folder).manifest for folder in (tmp_path / "run", stopped))
    assert (manifest["steps_done"], manifest["stopped_early"]) == (9, None)
    assert manifest["alarms"][0] == early["alarms"][0]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert lines[: early["steps_done"]] == (stopped / "metrics.jsonl").read_text().splitlines()
    # The step that the rule picks outlives the pruning of checkpoints, with the weights that were evaluated.
    name = f"checkpoints/label-free-step-{early['steps_done'] - 3}/model.safetensors"
    weights, same = load_file(tmp_path / "run" / name), load_file(stopped / name)
    assert all(tensor.equal(same[key]) for key, tensor in weights.items())


@pytest.mark.parametrize("lost", ["everything", "the last checkpoint", "the end"])
def test_a_run_that_stops_early_resumes_bitwise_too(stopped, tmp_path, lost):
    folder = tmp_path / "cut"
    shutil.copytree(stopped, folder)
    early = Record.reopen(stopped).manifest
    last = f"checkpoint-{2 * early['steps_done']}"
    if lost == "everything":
        shutil.rmtree(folder / "checkpoints")
    elif lost == "the last checkpoint":
        shutil.rmtree(folder / "checkpoints" / last)
    else:
        (folder / "predictions.jsonl").unlink()
    record = Record.reopen(folder)
    record.manifest.update(state="running", stopped_early=None)
    record.save_manifest()
    resume(folder)
    same_outcome(stopped, folder, last)
    manifest = Record.reopen(folder).manifest
    for key in ("state", "steps_done", "alarms", "stopped_early"):
        assert manifest[key] == early[key]
    names = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (folder, stopped)]
    assert names[0][-1] == names[1][-1]
    kept = f"checkpoints/{names[1][-1]}/model.safetensors"
    assert (folder / kept).read_bytes() == (stopped / kept).read_bytes()


def test_the_kept_weights_are_a_model(stopped):
    (path,) = (stopped / "checkpoints").glob("label-free-step-*")
    done = ttrl("eval", path, "mini-30", "--k", "4", "--max-new-tokens", "60")
    assert done.returncode == 0, done.stderr
    assert "avg@4" in done.stdout


def test_a_run_without_an_alarm_keeps_no_weights_beside_its_checkpoints(finished):
    assert Record.reopen(finished).manifest["alarms"] == []
    assert {path.name.partition("-")[0] for path in (finished / "checkpoints").iterdir()} == {"checkpoint"}


def test_eval_command(finished, tmp_path):
    refused = ttrl("eval", finished, "mini-83", "--max-new-tokens", "400")
    assert refused.returncode == 2
    assert "max_new_tokens: 400 after the" in refused.stderr
    done = ttrl("eval", finished, "mini-83", "--k", "4", "--out", tmp_path / "answers.parquet")
    assert done.returncode == 0, done.stderr
    assert "greedy" in done.stdout
    assert "avg@4" in done.stdout
    assert len(pq.read_table(tmp_path / "answers.parquet")) == 83 * 5


def run_as_two(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`ttrl` in two processes of one thread each."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [*launcher, "-m", "ttrl_repro.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done


def test_two_processes_stop_together(tmp_path):
    """The main process alone sees the alarm; the other must neither go on nor wait for it."""
    experiment = tmp_path / "e2e.yaml"
    content = {**WATCHED, "watch": {**WATCHED["watch"], "patience": 1, "entropy_fall": 0.99}}
    experiment.write_text(yaml.safe_dump({**content, "evaluate": {**WATCHED["evaluate"], "every": 20}}))
    run_as_two("run", experiment, "--out", tmp_path / "two")
    manifest = Record.reopen(tmp_path / "two").manifest
    assert manifest["steps_done"] == manifest["alarms"][0]["step"] < 9
    assert manifest["stopped_early"].startswith("watch.stop: the entropy of a token is")
    # Killed between the last checkpoint and the end, neither of the two may train on.
    (tmp_path / "two" / "predictions.jsonl").unlink()
    set_state(tmp_path / "two", "running")
    run_as_two("resume", tmp_path / "two")
    resumed = Record.reopen(tmp_path / "two").manifest
    assert (resumed["state"], resumed["steps_done"]) == ("finished", manifest["steps_done"])
    assert (tmp_path / "two" / "predictions.jsonl").is_file()


def test_two_processes_vote_and_train_as_one(tmp_path):
    """torchrun with gloo: each process samples half of the questions; labels and updates are the same.

    And a resume of the two is bitwise the run of the two.
    """
    experiment = tmp_path / "e2e.yaml"
    content = config(train={"steps": 2, "questions_per_step": 10, "microbatch": 20, "learning_rate": 1e-4})
    content["train"]["checkpoint_every"] = 1
    experiment.write_text(yaml.safe_dump(content))
    start(Experiment.model_validate(content), tmp_path / "one")
    done = run_as_two("run", experiment, "--out", tmp_path / "two")
    assert done.stdout.count("record: ") == 1  # one process speaks
    one, two = (sorted_votes(tmp_path / name) for name in ("one", "two"))
    assert one[:10] == two[:10]  # the first step, from the same weights: bitwise
    first, second = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert first[0]["label_accuracy"] == second[0]["label_accuracy"]
    for a, b in zip(first, second, strict=True):
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
        assert a["tie_rate"] == b["tie_rate"]
    shutil.copytree(tmp_path / "two", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "checkpoint-2")
    set_state(tmp_path / "again", "running")
    with pytest.raises(UserError, match="the run began with processes 2, now it is 1"):
        resume(tmp_path / "again")
    run_as_two("resume", tmp_path / "again")
    same_outcome(tmp_path / "two", tmp_path / "again", "checkpoint-2")


def sorted_votes(folder: Path) -> list[dict]:
    return sorted(pq.read_table(folder / "votes.parquet").to_pylist(), key=lambda r: (r["step"], r["question_id"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.lr=1"], "train.lr: unknown field; known here:"),
        (["rollout.trained=128"], "rollout: trained (128) must be at most votes (16)"),
        (["rollout.temperature=-1"], "rollout.temperature: Input should be greater than 0"),
        (["model=mini-xxl"], "model: unknown model 'mini-xxl'; known: mini-m, mini-s, mini-xs"),
        (["algorithm=foo"], "algorithm: unknown algorithm 'foo'; known: 'grpo', 'dr_grpo',"),
        (["algorithm={name: ppo, gae_lambda: 2}"], "algorithm: gae_lambda: Input should be less than or equal to 1"),
        (["algorithm={name: rloo, beta: 2}"], "algorithm: beta: unknown setting of 'rloo'; known: clip, kl"),
        (["algorithm.kl=0.1", "train.skip_without_signal=true"], "a sample without advantage changes the update, too"),
        (["lora.foo=1"], "lora.foo: unknown field; known here: rank, alpha, target_modules"),
        (["lora.target_modules=[]"], "lora.target_modules: Tuple should have at least 1 item"),
        (["lora.target_modules=[nonsense]"], "lora.target_modules: Target modules"),
        (["model=nobody/no-such-model"], "model: cannot load hub model 'nobody/no-such-model'"),
        (["model=./none"], "model: no such folder ./none"),
        (["seeds.base=7"], "`ttrl pretrain mini-xs --seed 7`"),
        (["task=aime"], "task: unknown task 'aime'; known: mini-30"),
        (["train.questions_per_step=7"], "train.questions_per_step: 7 does not divide the task's 30 questions"),
        (["rollout.max_new_tokens=400"], "rollout.max_new_tokens: 400 after the"),
        (["evaluate.tasks=[mini-30]"], "evaluate.tasks: 'mini-30' is the trained task"),
        (["evaluate.tasks=[mini-83,mini-83]"], "evaluate.tasks: two tasks have one name"),
        (["watch.stop=true", "train.steps=5"], "watch.stop has no effect: an alarm cannot come before step 5 "),
        (["rollout.engine=sglang"], "rollout.engine: Input should be 'auto', 'cpu', 'transformers' or 'vllm'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_with_nothing_written(tmp_path, arguments, message, monkeypatch, capsys):
    from ttrl_repro import cli

    experiment = tmp_path / "e2e.yaml"
    experiment.write_text(yaml.safe_dump(config()))
    out = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["ttrl", "run", str(experiment), *arguments, "--out", str(out)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("ttrl: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert not out.exists()


@pytest.mark.parametrize("more", [{"lora": {"rank": 2}}, {"algorithm": {"kl": 0.1}}])
def test_adapters_are_no_base_for_what_goes_back_to_theirs(tmp_path, more):
    model, tokenizer = load_model("mini-xs")
    with_adapters(model, Lora(rank=4), seed=0).save_pretrained(tmp_path / "adapters")
    tokenizer.save_pretrained(tmp_path / "adapters")
    given = config(model=str(tmp_path / "adapters"), **more)
    with pytest.raises(UserError, match=r"model: .* holds adapters, whose base (lora|algorithm.kl) would go back to"):
        start(Experiment.model_validate(given), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_algorithm_with_a_critic_refuses_a_model_that_cannot_carry_one(tmp_path, monkeypatch):
    monkeypatch.setattr("ttrl_repro.run.cannot_carry_critic", lambda _: "it is a stone")
    with pytest.raises(UserError, match=r"'ppo' needs a critic, and none can be made .* \(it is a stone\); use an"):
        start(Experiment.model_validate(config(algorithm="ppo")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_keep_command(finished, tmp_path):
    done = ttrl("keep", finished, tmp_path / "kept" / "r0")
    assert (done.returncode, done.stdout) == (0, f"compact record: {tmp_path / 'kept' / 'r0'}\n")
    assert ttrl("show", tmp_path / "kept" / "r0").returncode == 0  # a compact record is a record
    assert not (tmp_path / "kept" / "r0" / "samples").exists()


def test_an_unknown_wandb_mode_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "banana")
    with pytest.raises(UserError, match="WANDB_MODE: unknown mode 'banana'; known: offline"):
        start(Experiment.model_validate(config()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_under_wandb_s_agent_a_run_is_online(monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    assert wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert wandb_mode() == "online"
    monkeypatch.setattr(sys, "argv", ["ttrl", "run", "file.yaml", "rollout.votes=8", "reward=soft", "--out", "a=b/c"])
    parameters = {"rollout.votes": 8, "reward": "soft", "a": "b/c"}
    assert sweep_of_environment() == {"wandb": "abc", "parameters": parameters}


def test_a_folder_of_another_config_is_refused(finished, tmp_path):
    other = Experiment.model_validate(config(seeds={"rl": 1}))
    before = sorted(finished.rglob("*"))
    with pytest.raises(UserError, match="holds the record of another config"):
        start(other, finished)
    with pytest.raises(UserError, match="holds this very run, finished; see `ttrl show"):
        start(Experiment.model_validate(config()), finished)
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="is not empty and holds no run record"):
        start(other, tmp_path)
    assert sorted(finished.rglob("*")) == before


def test_bad_input_from_a_real_process(tmp_path):
    done = ttrl("run", tmp_path / "none.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"ttrl: {tmp_path / 'none.yaml'}: cannot read the experiment: No such file or directory\n"


@pytest.mark.parametrize("samples", [False, True])
def test_wandb_gets_what_the_record_got(tmp_path, monkeypatch, samples):
    """A real offline W&B run, read back from its file. Sampled texts stay local unless asked for."""
    monkeypatch.delenv("WANDB_MODE")  # offline is what one gets without asking
    folder = tmp_path / "run"
    content = config(train={"steps": 2, "questions_per_step": 10, "learning_rate": 1e-3})
    content["tracking"] = {"samples": samples}
    start(Experiment.model_validate(content), folder)
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    history = read_wandb(path)
    for row in read_jsonl(folder / "metrics.jsonl"):
        sent = next(h for h in history if h["_step"] == row["step"])
        for name, value in row.items():
            if name != "step":
                assert sent[name] == pytest.approx(value)
        assert sent["time/seconds"] > 0
    sent = next(h for h in history if h["_step"] == 0)
    assert "eval/mini-30/train/T=0.6/avg@4" in sent
    texts = [file for file in path.parent.rglob("*") if file.is_file() and b"boxed{" in file.read_bytes()]
    assert bool(texts) == samples


def read_wandb(path: Path) -> list[dict]:
    """History rows of a .wandb file, as W&B's own command reads them."""
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    records = (json.loads(line) for line in done.stdout.splitlines())
    return [record["history"]["item"] for record in records if record["type"] == "history"]
