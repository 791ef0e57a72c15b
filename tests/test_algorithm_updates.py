"""Updates of real trainers against losses written out in plain PyTorch, whatever way they are divided."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from tests import reference
from tests.test_trainer import assert_same_gradient, change, flat, make
from ttrl_repro.adapters import weights_of, with_adapters
from ttrl_repro.algorithms import ALGORITHMS
from ttrl_repro.algorithms.prime import process_advantages
from ttrl_repro.config import Lora
from ttrl_repro.errors import UserError
from ttrl_repro.models import load_model
from ttrl_repro.ppo_trainer import PPOTrainer
from ttrl_repro.rollouts import Sampling, make_engine, uniforms
from ttrl_repro.side_models import Critic, SideModel, cannot_carry_critic, in_passes, scattered, whitened

ONE = {"steps": 1}


def trained(tmp_path, name="t", **sections):
    trainer, results = make(change(**sections), tmp_path / name)
    trainer.train()
    return trainer, results


def samples_of(trainer, advantages):
    """(prompt, completion, advantages) of the first rollout's rows; `advantages`: one number or row of numbers each."""
    _, out, _ = trainer.rollouts[0]
    return list(zip(out["prompt_ids"], out["completion_ids"], advantages, strict=True))


def rewards_of(trainer):
    return np.array(trainer.rollouts[0][1]["reward"])


def tokens_of(trainer):
    return sum(map(len, trainer.rollouts[0][1]["completion_ids"]))


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "rloo", "reinforce_pp"])
def test_the_first_update_is_that_of_the_formula(tmp_path, name):
    trainer, _ = trained(tmp_path, algorithm=name, train=ONE)
    r = rewards_of(trainer).reshape(10, 8)
    mean, std = r.mean(1, keepdims=True), r.std(1, ddof=1, keepdims=True)
    others = (r.sum(1, keepdims=True) - r) / 7
    advantages, normaliser = {
        "grpo": ((r - mean) / (std + 1e-4), tokens_of(trainer)),
        "dapo": ((r - mean) / (std + 1e-4), tokens_of(trainer)),
        "dr_grpo": (r - mean, 80 * 60),
        "rloo": (r - others, 80),
        "reinforce_pp": ((r - r.mean()) / (r.std(ddof=1) + 1e-8), tokens_of(trainer)),
    }[name]
    model, _ = load_model("mini-xs")
    expected = reference.policy_gradient(model, samples_of(trainer, advantages.ravel().tolist()), normaliser, 1.0)
    found = trainer.gradients[0]
    assert (flat(found) - flat(expected)).norm() / flat(expected).norm() < 1e-5


PLAIN_PPO = {"name": "ppo", "critic_rate": 0.0, "whiten": False}


def test_ppo_with_a_frozen_zero_critic_is_reinforce_without_baseline(tmp_path):
    trainer, results = trained(tmp_path, algorithm=PLAIN_PPO, train=ONE)
    model, _ = load_model("mini-xs")
    expected = reference.policy_gradient(
        model, samples_of(trainer, rewards_of(trainer).tolist()), tokens_of(trainer), 1.0
    )
    assert_same_gradient(trainer.gradients[0], expected)
    assert results[0].metrics["value_mean"] == 0
    assert "value_loss" not in results[0].metrics
    assert results[0].metrics["explained_variance"] <= 0  # returns are not constant, and V = 0 explains nothing


def test_whitened_advantages_of_ppo_have_mean_0_and_variance_1(tmp_path):
    trainer, _ = trained(tmp_path, algorithm="ppo", train=ONE)
    batch = trainer.batches[0]
    advantages = batch["advantages"][batch["completion_mask"].bool()]
    assert batch["advantages"].shape == batch["completion_mask"].shape
    assert advantages.mean().item() == pytest.approx(0, abs=1e-5)
    assert advantages.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_the_critic_learns_the_returns(tmp_path):
    """Of the same questions over several steps: less error, and more than none of the variance explained."""
    algorithm = {"name": "ppo", "critic_rate": 3e4, "value_clip": None}
    train = {"steps": 30, "learning_rate": 1e-8, "updates_per_step": 4}
    _, results = trained(tmp_path, algorithm=algorithm, train=train)
    losses = [result.metrics["value_loss"] for result in results]
    assert np.mean(losses[-3:]) < 0.9 * losses[0]
    assert results[0].metrics["explained_variance"] <= 0
    assert np.mean([result.metrics["explained_variance"] for result in results[-3:]]) > 0.03


def test_value_loss_and_its_clip_by_hand():
    """Old values 0, returns 1; new values .5 and .1; the clip lets a value move by .2.

    Unclipped errors .25 and .81; clipped values .2 and .1, errors .64 and .81. The larger: .64 and .81; the third token
    is padding. Half their mean: .3625; without clipping (.25 + .81) / 4 = .265.
    """
    for clip, expected in ((0.2, 0.3625), (None, 0.265)):
        part = {
            "old_values": torch.zeros(1, 3),
            "returns": torch.ones(1, 3),
            "completion_mask": torch.tensor([[1, 1, 0]]),
        }
        fake = SimpleNamespace(
            algorithm=SimpleNamespace(value_clip=clip),
            _passes=lambda batch, _: [batch],
            _values=lambda _: torch.tensor([[0.5, 0.1, 7]]),
        )
        (loss,) = PPOTrainer._value_losses(fake, part, torch.tensor([0]), 2.0)
        assert loss.item() == pytest.approx(expected)


def test_values_are_of_the_state_before_each_token(tiny_model):
    """A token cannot change its own value, only those after it; left padding changes nothing."""
    critic = Critic(tiny_model)
    torch.nn.init.normal_(critic.head.weight)
    batch = {
        "prompt_ids": torch.tensor([[0, 5, 6], [7, 5, 6]]),
        "prompt_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
        "completion_ids": torch.tensor([[7, 8, 9], [7, 8, 9]]),
        "completion_mask": torch.ones(2, 3, dtype=torch.long),
    }
    values = critic(batch)
    alone = critic({key: value[:1, 1:] if key.startswith("prompt") else value[:1] for key, value in batch.items()})
    assert values[:1].tolist()[0] == pytest.approx(alone.tolist()[0], abs=1e-5)
    changed = critic({**batch, "completion_ids": torch.tensor([[7, 3, 9], [7, 3, 9]])})
    assert torch.allclose(values[:, :2], changed[:, :2], atol=1e-6)
    assert not torch.allclose(values[:, 2], changed[:, 2], atol=1e-3)


def test_prime_before_its_reward_model_has_learned_anything(tmp_path):
    """Token rewards are 0: what is left is 5 x RLOO, with a token-mean loss."""
    algorithm = {"name": "prime", "reward_model_rate": 0.0, "whiten": False}
    trainer, results = trained(tmp_path, algorithm=algorithm, train=ONE)
    r = rewards_of(trainer).reshape(10, 8)
    advantages = 5 * (r - (r.sum(1, keepdims=True) - r) / 7)
    model, _ = load_model("mini-xs")
    expected = reference.policy_gradient(
        model, samples_of(trainer, advantages.ravel().tolist()), tokens_of(trainer), 1.0
    )
    found = trainer.gradients[0]
    assert (flat(found) - flat(expected)).norm() / flat(expected).norm() < 1e-5
    assert "reward_model_loss" not in results[0].metrics


def test_prime_s_reward_model_takes_the_step_of_its_loss(tmp_path):
    """Logits are 0 at first: the loss is log 2, and its gradient (1/2 - outcome) beta d log pi, averaged over samples.

    After the step token rewards are beta (log pi_prm - log pi_base), and make the advantages.
    """
    algorithm = {"name": "prime", "whiten": False, "outcome_weight": 0.0, "process_weight": 2.0, "gamma": 0.9}
    algorithm["reward_model_rate"] = 0.06  # of 1e-3
    trainer, results = trained(tmp_path, algorithm=algorithm, train=ONE)
    assert results[0].metrics["reward_model_loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert results[0].metrics["reward_model_accuracy"] > 0.6
    base, _ = load_model("mini-xs")
    rewards = rewards_of(trainer)
    expected = reference.policy_gradient(base, samples_of(trainer, (0.05 * (rewards - 0.5)).tolist()), 80, 1.0)
    found = {name: p.grad for name, p in trainer.reward_model.module.named_parameters()}
    scale = flat(expected).norm().clamp(min=1.0)  # gradients are clipped at a norm of 1e9 here: not at all
    assert (flat(found) - flat(expected)).norm() / scale < 1e-5
    # The two networks are their own: the policy's update, whose rate is far larger, moved neither.
    assert torch.equal(trainer.base.lm_head.weight, base.lm_head.weight)
    moved = (trainer.reward_model.module.lm_head.weight - base.lm_head.weight).abs().max()
    assert 0 < moved < 1e-4 < (trainer.model.lm_head.weight - base.lm_head.weight).abs().max()
    batch = trainer.batches[0]
    tokens = [(p, c) for p, c, _ in samples_of(trainer, rewards.tolist())]
    logps = [
        [reference.token_logprobs(model, p, c, 1.0).detach() for p, c in tokens]
        for model in (trainer.reward_model.module, base)
    ]
    width = batch["completion_mask"].shape[1]
    token_rewards, mask = np.zeros((80, width)), batch["completion_mask"].numpy()
    for i, (ours, bases) in enumerate(zip(*logps, strict=True)):
        token_rewards[i, : len(ours)] = 0.05 * (ours - bases).numpy()
    largest = max(abs(row[t:].sum()) for row in token_rewards for t in range(width))
    token_rewards /= largest + 1e-6
    assert results[0].metrics["process_share"] == 1
    advantages = 2 * process_advantages(token_rewards.reshape(10, 8, -1), mask.reshape(10, 8, -1), 0.9)
    np.testing.assert_allclose(batch["advantages"].numpy(), advantages.reshape(80, -1), atol=2e-3)
    assert np.abs(advantages).max() > 0.5


EVERY = [*ALGORITHMS.own, "ppo with several updates", "rloo with adapters", "ppo with adapters", "prime with adapters"]


# Adam's first step of PRIME's reward model is the sign of its gradient, also where that is rounding alone, and
# token rewards after it are scaled up to 1.
ROUNDING = {"prime": 10}


def variant(name):
    """Sections of an experiment: an algorithm, perhaps with adapters or several updates per rollout."""
    algorithm, _, more = name.partition(" with ")
    sections = {"algorithm": algorithm}
    if more == "adapters":
        sections["lora"] = {"rank": 4, "alpha": 8}
    return sections, {"updates_per_step": 2} if more == "several updates" else {}


@pytest.mark.parametrize("name", EVERY)
def test_accumulation_does_not_change_an_update(tmp_path, name):
    sections, train = variant(name)
    whole, _ = trained(tmp_path, "whole", **sections, train={**ONE, **train})
    parts, _ = trained(tmp_path, "parts", **sections, train={**ONE, **train, "microbatch": 5})
    assert parts.plan.accumulation >= 8
    relative = (flat(parts.gradients[0]) - flat(whole.gradients[0])).norm() / flat(whole.gradients[0]).norm()
    assert relative < 2e-5 * ROUNDING.get(sections["algorithm"], 1)
    assert flat(whole.gradients[0]).norm() > 1e-4
    ours, theirs = (trainer.batches[0]["advantages"] for trainer in (whole, parts))
    assert torch.allclose(ours, theirs, atol=1e-5 * ROUNDING.get(sections["algorithm"], 1))


SHARED = [name for name in EVERY if "several" not in name]  # whose updates do not depend on who holds which rows


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """torchrun with gloo: two processes, each with half of the questions, do one step of every variant."""
    folder = tmp_path_factory.mktemp("pair")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, "-m", "tests.test_algorithm_updates", str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", SHARED)
def test_two_processes_make_the_update_of_one(tmp_path, pair, name, monkeypatch):
    """Completions, labels and rewards are the same, and updates to rounding: without native code, as two have none."""
    monkeypatch.setattr("ttrl_repro.trainer.native_library", lambda _: "the test wants it off")
    sections, train = variant(name)
    alone, _ = trained(tmp_path, "alone", **sections, train={**ONE, **train, "microbatch": 20})
    ranks = [torch.load(pair / name / f"{rank}.pt", weights_only=False) for rank in range(2)]
    ids, out, pending = alone.rollouts[0]
    assert [*ranks[0]["ids"], *ranks[1]["ids"]] == ids
    for key in ("completion_ids", "reward"):
        assert [*ranks[0]["out"][key], *ranks[1]["out"][key]] == out[key]
    labels = {group.question_id: group.vote.label for group in pending.groups}
    assert ranks[0]["labels"] == ranks[1]["labels"] == labels
    # RLOO's loss is a sum over a sample's tokens, about 30 times that of the others, which are means.
    size = tokens_of(alone) / 80 if name.startswith("rloo") else 1.0
    expected = flat(alone.gradients[0]) / size
    for rank in ranks:
        difference = flat(rank["gradients"][0]) / size - expected
        assert difference.abs().max() < 1e-6
        assert difference.norm() / expected.norm() < 1e-5 * ROUNDING.get(sections["algorithm"], 1)


def as_rank(folder: Path) -> None:
    """What each of the two processes does."""
    for name in SHARED:
        sections, train = variant(name)
        trainer, _ = make(change(**sections, train={**ONE, **train, "microbatch": 10}), folder / name / "run")
        trainer.train()
        ids, out, pending = trainer.rollouts[0]
        labels = {group.question_id: group.vote.label for group in pending.groups}
        found = {"ids": ids, "out": out, "labels": labels, "gradients": trainer.gradients}
        torch.save(found, folder / name / f"{trainer.accelerator.process_index}.pt")


def test_adapters_sample_from_the_weights_they_make():
    """Greedy and random tokens of the CPU engine, which adds the adapters to the weights, and of PEFT's own model."""
    model, tokenizer = load_model("mini-xs")
    model = with_adapters(model, Lora(rank=4, alpha=8), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(0))
    prompts, sampling = [tokenizer("12+3*4=")["input_ids"]], Sampling(1.0, 1.0, 40)
    numbers = uniforms(0, ["q"], 16, 40)
    ours, theirs = (
        make_engine(name, model, tokenizer).sample(prompts, numbers, sampling) for name in ("cpu", "transformers")
    )
    assert np.array_equal(ours.tokens_QNT, theirs.tokens_QNT)
    plain = make_engine("cpu", load_model("mini-xs")[0], tokenizer).sample(prompts, numbers, sampling)
    assert not np.array_equal(ours.tokens_QNT, plain.tokens_QNT)


def test_adapters_alone_are_trained(tmp_path):
    trainer, results = trained(tmp_path, lora={"rank": 4, "alpha": 8}, train={"steps": 2})
    assert all("lora" in name for name in trainer.gradients[0])
    assert results[1].metrics["sampler_gap"] < 3e-4  # after an update, too
    for modules, message in (
        ("nonsense", "Target modules .*not found"),
        ("embed_tokens", "model.embed_tokens is no matrix; use linear layers of the blocks"),
        ("lm_head", "lm_head is the output matrix"),
    ):
        with pytest.raises(UserError, match=rf"lora.target_modules: {message}"):
            with_adapters(load_model("mini-xs")[0], Lora(target_modules=(modules,)), 0)


def test_adapters_load_as_one_model_with_their_base(tmp_path):
    model, tokenizer = load_model("mini-xs")
    model = with_adapters(model, Lora(rank=4), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, expected = load_model(str(tmp_path))[0].state_dict(), weights_of(model)
    for name, weight in expected.items():
        assert torch.allclose(again[name], weight, atol=1e-6), name
    assert not torch.allclose(expected["model.layers.0.mlp.up_proj.weight"],
                              load_model("mini-xs")[0].model.layers[0].mlp.up_proj.weight, atol=1e-3)  # fmt: skip
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace("mini-xs-seed0", "mini-xs-moved"))
    with pytest.raises(UserError, match=r"the base of the adapters in .*mini-xs-moved, is not there"):
        load_model(str(tmp_path))


def test_a_side_model_s_state_fits_no_other(tiny_model):
    accelerator = SimpleNamespace(num_processes=1)
    critic = SideModel(Critic(tiny_model), 1e-3, 1.0, accelerator)
    state = critic.state()
    critic.load(state)
    del state["module"]["head.weight"]
    with pytest.raises(ValueError, match=r"only one of the two has head\.weight"):
        critic.load(state)


def test_models_that_carry_no_critic():
    shape = {"d_model": 8, "d_ff": 8, "num_layers": 1, "num_heads": 1, "vocab_size": 8, "d_kv": 8}
    t5 = T5ForConditionalGeneration(T5Config(**shape))
    assert cannot_carry_critic(t5) == "'t5' is an encoder-decoder"
    trunk = load_model("mini-xs")[0].base_model
    assert cannot_carry_critic(trunk) == "Qwen3Model has no trunk apart from its head"
    assert cannot_carry_critic(load_model("mini-xs")[0]) is None
    assert cannot_carry_critic(with_adapters(load_model("mini-xs")[0], Lora(), 0)) is None


def test_passes_cover_the_rows_once():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0]])
    batch = {"prompt_ids": torch.ones(4, 2), "prompt_mask": torch.ones(4, 2, dtype=torch.long), "completion_ids": mask,
             "completion_mask": mask, "number": torch.tensor(3)}  # fmt: skip
    passes = list(in_passes(batch, [3, 0, 2], 2))
    assert [part["row"].tolist() for part in passes] == [[3, 2], [0]]  # by length
    assert [part["completion_ids"].shape[1] for part in passes] == [2, 3]
    back = scattered(((part, part["completion_mask"].float()) for part in passes), mask)
    assert back.tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 0], [1, 0, 0]]


def test_whitening_by_hand():
    one = SimpleNamespace(num_processes=1)
    found = whitened(torch.tensor([[1.0, 3, 99]]), torch.tensor([[1, 1, 0]]), one)
    assert found.tolist()[0] == pytest.approx([-1, 1, 0])  # mean 2, deviation 1
    assert whitened(torch.ones(1, 2), torch.ones(1, 2), one).tolist() == [[0, 0]]


if __name__ == "__main__":
    as_rank(Path(sys.argv[1]))
