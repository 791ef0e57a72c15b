import copy

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from tests import reference
from ttrl_repro.adapters import with_adapters
from ttrl_repro.algorithms import GRPO
from ttrl_repro.config import Experiment
from ttrl_repro.errors import UserError
from ttrl_repro.models import load_model
from ttrl_repro.native.library import load
from ttrl_repro.native.weights import Weights
from ttrl_repro.prompts import encode_prompts
from ttrl_repro.rollouts import make_engine
from ttrl_repro.tasks import load_task
from ttrl_repro.trainer import plan_batches

SMALL = {
    "name": "t",
    "task": "mini-30",
    "model": "mini-xs",
    "rollout": {"votes": 16, "trained": 8, "max_new_tokens": 60},
    "train": {"steps": 2, "questions_per_step": 10, "learning_rate": 1e-3, "gradient_clip": 1e9},
}


def change(**sections) -> Experiment:
    content = copy.deepcopy(SMALL)
    for name, value in sections.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) and name in content else value
    return Experiment.model_validate(content)


class Probe:
    """A trainer, keeping what it sampled, what TRL made of it, and the gradient of every update."""

    def __init__(self, *args, **kwargs):
        self.rollouts, self.batches, self.gradients, self.weights, self.inputs = [], [], [], [], []
        self.trl_advantages = []
        super().__init__(*args, **kwargs)

    def token_advantages(self, batch):
        self.trl_advantages.append(batch["advantages"])
        return super().token_advantages(batch)

    def _sample_and_vote(self, ids):
        out = super()._sample_and_vote(ids)
        self.rollouts.append((ids, out, self._pending))
        return out

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        self.batches.append(batch)
        return batch

    def _compute_loss(self, model, inputs):
        self.inputs.append(inputs)
        return super()._compute_loss(model, inputs)


class KeepGradients(TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.trainer.gradients.append({n: p.grad.clone() for n, p in trained.items()})
        self.trainer.weights.append({n: p.detach().clone() for n, p in trained.items()})


def make(experiment, tmp_path, gold="own"):
    model, tokenizer = load_model(experiment.model)
    if experiment.lora is not None:
        model = with_adapters(model, experiment.lora, experiment.seeds.rl)
    task = load_task(experiment.task, experiment.seeds.draw)
    answers = {q.id: q.answer for q in task.questions}
    if gold == "shuffled":
        answers = dict(zip(answers, np.roll(list(answers.values()), 7).tolist(), strict=True))
    results = []
    trainer = type("Probed", (Probe, experiment.algorithm.trainer_class()), {})(
        model,
        tokenizer,
        make_engine(experiment.rollout.engine, model, tokenizer),
        experiment,
        encode_prompts(task.questions, tokenizer, experiment.prompt),
        None if gold is None else answers,
        tmp_path / "checkpoints",
        results.append,
    )
    trainer.add_callback(KeepGradients(trainer))
    return trainer, results


def flat(gradient):
    return torch.cat([gradient[name].flatten() for name in sorted(gradient)])


def assert_same_gradient(found, expected):
    """Equal to 1e-6 in every entry; and to 3e-5 of the norm, which no entry's smallness can feign."""
    difference = flat(found) - flat(expected)
    assert difference.abs().max() < 1e-6
    assert difference.norm() / flat(expected).norm() < 3e-5  # fp32: by the processor's order of sums, up to 1.2e-5 seen


def test_the_gradient_is_that_of_the_reference(tmp_path):
    experiment = change(train={"steps": 1})
    trainer, _ = make(experiment, tmp_path)
    initial, _ = load_model(experiment.model)
    trainer.train()
    ids, out, pending = trainer.rollouts[0]
    groups, g = [], experiment.rollout.trained
    for q, group in enumerate(pending.groups):
        assert group.question_id == ids[q]
        label = reference.majority_label(group.texts, group.vote.label)
        rows = range(q * g, (q + 1) * g)
        texts = trainer.processing_class.batch_decode(
            [out["completion_ids"][row] for row in rows], skip_special_tokens=True
        )
        rewards = [float(label is not None and reference.answer(text) == label) for text in texts]
        assert rewards == [out["reward"][row] for row in rows]
        groups.append(
            [(out["prompt_ids"][row], out["completion_ids"][row], r) for row, r in zip(rows, rewards, strict=True)]
        )
    assert 0 < sum(r for group in groups for _, _, r in group) < len(ids) * g
    expected = reference.gradient(initial, groups, experiment.rollout.temperature)
    assert_same_gradient(trainer.gradients[0], expected)
    # The check can fail: one flipped reward is seen.
    prompt, completion, reward = groups[0][0]
    groups[0][0] = (prompt, completion, 1 - reward)
    with pytest.raises(AssertionError):
        assert_same_gradient(trainer.gradients[0], reference.gradient(initial, groups, 1.0))


def test_the_second_update_clips_as_the_reference_does(tmp_path):
    experiment = change(train={"steps": 1, "updates_per_step": 2, "learning_rate": 1e-3})
    trainer, results = make(experiment, tmp_path)
    trainer.train()
    assert len(trainer.gradients) == len(trainer.inputs) == 2
    batch = trainer.inputs[1]
    samples = []
    for i in range(len(batch["completion_ids"])):
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()].tolist()
        mask = batch["completion_mask"][i].bool()
        completion, old = batch["completion_ids"][i][mask].tolist(), batch["old_per_token_logps"][i][mask].tolist()
        samples.append((prompt, completion, batch["advantages"][i].item(), old))
    model, _ = load_model(experiment.model)
    model.load_state_dict(trainer.weights[1], strict=False)  # the tied output matrix goes with the embedding
    # The mean is over the rollout's tokens, of which an update has its share: half.
    tokens = sum(len(ids) for ids in trainer.rollouts[0][1]["completion_ids"]) / 2
    expected, clipped = reference.clipped_gradient(model, samples, tokens, 1.0, 0.2)
    assert clipped > 0.01  # clipping is in play
    assert_same_gradient(trainer.gradients[1], expected)
    assert 0 < results[0].metrics["clip_ratio"] < 0.5


def test_the_gradient_does_not_depend_on_the_microbatch(tmp_path):
    whole, _ = make(change(train={"steps": 1}), tmp_path / "a")
    parts, _ = make(change(train={"steps": 1, "microbatch": 16}), tmp_path / "b")
    whole.train()
    parts.train()
    assert_same_gradient(parts.gradients[0], whole.gradients[0])


def test_the_native_gradient_is_that_of_the_model_s_own_forward_pass(tmp_path, monkeypatch):
    native, _ = make(change(train={"steps": 1}), tmp_path / "a")
    native.train()
    monkeypatch.setattr("ttrl_repro.trainer.native_library", lambda _: "the test wants it off")
    plain, _ = make(change(train={"steps": 1}), tmp_path / "b")
    plain.train()
    assert not plain._native
    if isinstance(load(), str):
        pytest.skip(f"the native code is not available: {load()}")
    assert native._native
    assert_same_gradient(native.gradients[0], plain.gradients[0])


@pytest.mark.parametrize("factor", [1.05, float("nan")])
def test_a_wrong_copy_of_the_weights_is_noticed_though_sampler_and_update_share_it(tmp_path, monkeypatch, factor):
    if isinstance(load(), str):
        pytest.skip(f"the native code is not available: {load()}")
    panels = Weights._panels
    monkeypatch.setattr(Weights, "_panels", lambda self, weight, width: panels(self, weight * factor, width))
    trainer, _ = make(change(train={"steps": 1}), tmp_path)
    with pytest.raises(RuntimeError, match="samples from another model"):
        trainer.train()


def test_the_native_code_and_a_kl_term(tmp_path, monkeypatch):
    """The second update has moved away from the base: its weights are the reference model's own."""
    settings = {"algorithm": {"kl": 0.05}, "train": {"steps": 1, "updates_per_step": 2}}
    native, ours = make(change(**settings), tmp_path / "a")
    native.train()
    monkeypatch.setattr("ttrl_repro.trainer.native_library", lambda _: "the test wants it off")
    plain, theirs = make(change(**settings), tmp_path / "b")
    plain.train()
    for found, expected in zip(native.gradients, plain.gradients, strict=True):
        assert (flat(found) - flat(expected)).norm() / flat(expected).norm() < 1e-3
    assert ours[0].metrics["kl"] == pytest.approx(theirs[0].metrics["kl"], rel=1e-3)
    assert theirs[0].metrics["kl"] > 1e-3


@pytest.mark.parametrize(("algorithm", "updates"), [("grpo", 1), ("grpo", 2), ("rloo", 2), ("dr_grpo", 1)])
def test_samples_without_signal_change_nothing(tmp_path, algorithm, updates):
    """Of ten questions some have only wrong or only right samples in a group of four."""
    settings = {"steps": 1, "updates_per_step": updates}
    found = {}
    for skipped in (True, False):
        train = {**settings, "skip_without_signal": skipped}
        experiment = change(algorithm=algorithm, train=train, rollout={"trained": 4})
        trainer, results = make(experiment, tmp_path / str(skipped))
        seen = count_rows(trainer)
        trainer.train()
        found[skipped] = trainer.gradients, results[0].metrics, sum(seen)
    assert found[True][2] < found[False][2] == 40
    for ours, theirs in zip(found[True][0], found[False][0], strict=True):
        assert (flat(ours) - flat(theirs)).norm() / flat(theirs).norm() < 1e-5
    for name in ("clip_ratio", "loss"):
        assert found[True][1][name] == pytest.approx(found[False][1][name], rel=1e-5, abs=1e-6)


def count_rows(trainer):
    """Rows of every forward pass for the loss, as they come."""
    seen, inner = [], trainer._get_per_token_logps_and_entropies

    def counting(model, input_ids, *args, **kwargs):
        if not trainer._old_logps_known:
            seen.append(len(input_ids))
        return inner(model, input_ids, *args, **kwargs)

    trainer._get_per_token_logps_and_entropies = counting
    return seen


def test_several_updates_need_no_forward_pass_for_old_log_probabilities(tmp_path):
    trainer, _ = make(change(train={"steps": 1, "updates_per_step": 2, "skip_without_signal": False}), tmp_path)
    seen = count_rows(trainer)
    trainer.train()
    assert seen == [40, 40]
    batch = trainer.batches[0]
    assert torch.equal(batch["old_per_token_logps"], batch["sampling_per_token_logps"])


def test_advantages_of_grpo_are_trl_s(tmp_path):
    trainer, _ = make(change(train={"steps": 1}), tmp_path)
    trainer.train()
    _, out, _ = trainer.rollouts[0]
    rewards_QG = np.array(out["reward"]).reshape(10, 8)
    ours = GRPO().advantages(rewards_QG).ravel()
    # The batch keeps the rollout's order here; it is shuffled later, when it is split.
    np.testing.assert_allclose(trainer.trl_advantages[0].numpy(), ours, atol=1e-6)
    np.testing.assert_allclose(trainer.batches[0]["advantages"].numpy(), ours, atol=1e-6)
    assert np.abs(ours).max() > 0.5


def test_the_update_of_grpo_is_trl_s(tmp_path):
    ours, _ = make(change(train={"steps": 1}), tmp_path / "ours")
    ours.train()
    theirs, _ = make(change(train={"steps": 1}), tmp_path / "theirs")
    theirs.token_advantages = lambda batch: batch["advantages"]
    theirs.train()
    assert_same_gradient(ours.gradients[0], theirs.gradients[0])


@pytest.mark.parametrize("engine", ["cpu", "transformers"])
def test_the_sampler_s_log_probabilities_are_the_trainer_s_at_every_step(tmp_path, engine):
    experiment = change(train={"steps": 4}, rollout={"engine": engine, "temperature": 0.8})
    trainer, results = make(experiment, tmp_path)
    trainer.train()
    assert len(results) == 4
    for result in results:
        assert result.metrics["sampler_gap"] < 3e-4  # rounding in fp32, by two programs
    weights = [g["model.embed_tokens.weight"].abs().sum().item() for g in trainer.gradients]
    assert all(weight > 0 for weight in weights)  # the weights did move between the steps


@pytest.mark.parametrize("rollout", [{}, {"adaptive_error": 0.05, "adaptive_chunk": 4, "trained": 4}])
def test_true_labels_never_reach_training(tmp_path, rollout):
    final = {}
    for gold in ("own", "shuffled", None):
        trainer, results = make(change(rollout=rollout), tmp_path / str(gold), gold)
        trainer.train()
        final[gold] = ({n: p.detach().clone() for n, p in trainer.model.named_parameters()}, results)
    for gold in ("shuffled", None):
        for name, weight in final["own"][0].items():
            assert torch.equal(weight, final[gold][0][name])
    own, shuffled, none = (final[gold][1][-1].metrics for gold in ("own", "shuffled", None))
    assert own["majority_ratio"] == shuffled["majority_ratio"] == none["majority_ratio"]
    assert own["ground_truth_ratio"] > shuffled["ground_truth_ratio"]
    assert "label_accuracy" not in none  # absent, not zero
    assert all(row["gold_count"] is None for row in final[None][1][-1].votes)


def test_the_oracle_does_read_them(tmp_path):
    final = []
    for gold in ("own", "shuffled"):
        trainer, _ = make(change(reward="oracle"), tmp_path / gold, gold)
        trainer.train()
        final.append(trainer.model.model.layers[0].mlp.down_proj.weight.detach().clone())
    assert not torch.equal(*final)
    with pytest.raises(UserError, match="reads true labels"):
        make(change(reward="oracle"), tmp_path / "none", None)


def test_step_results(tmp_path):
    experiment = change(train={"steps": 3, "updates_per_step": 2})
    trainer, results = make(experiment, tmp_path)
    trainer.train()
    assert trainer.state.global_step == 6
    assert [result.step for result in results] == [1, 2, 3]
    for result in results:
        assert len(result.votes) == 10
        assert len(result.samples) == 160
        assert sum(row["trained"] for row in result.samples) == 80
        assert result.tokens_sampled == sum(row["tokens"] for row in result.samples)
        for row in result.votes:
            keys = [s["key"] for s in result.samples if s["question_id"] == row["question_id"]]
            assert keys.count(row["label_key"]) == row["top_count"]
            assert keys.count(None) == row["abstained"]
    # Three steps of ten questions go once round the thirty.
    assert len({row["question_id"] for result in results for row in result.votes}) == 30
    # At the first update ratios are 1; at the second they have moved.
    trained = [sorted(r["sample"] for r in results[0].samples if r["trained"] and r["question_id"] == q)
               for q in {v["question_id"] for v in results[0].votes}]  # fmt: skip
    assert any(samples != list(range(8)) for samples in trained)  # a draw, not the first G


def test_plan_batches_divides():
    plan = plan_batches(change(train={"updates_per_step": 2, "microbatch": 10}), 30)
    assert (plan.microbatch, plan.accumulation, plan.forwards_per_step) == (10, 4, 8)
    assert plan_batches(change(train={"questions_per_step": None}), 30).microbatch == 30 * 8
    assert plan_batches(change(train={"microbatch": 7}), 30).microbatch == 5  # the largest divisor of 80 up to 7
    with pytest.raises(UserError, match="'permuted' needs 2 or more"):
        plan_batches(change(reward="permuted", train={"questions_per_step": 1}), 30)


@pytest.mark.parametrize(
    ("train", "questions", "processes", "message"),
    [
        (
            {"questions_per_step": 4},
            30,
            1,
            r"does not divide the task's 30 questions \(2 would never.*\[1, 2, 3, 5",
        ),
        ({"questions_per_step": 15}, 30, 2, "do not divide over 2 processes"),
        ({"updates_per_step": 3}, 30, 1, "train.updates_per_step: 3 does not divide the 80 trained samples"),
    ],
)
def test_sizes_that_would_be_dropped_or_split_are_refused(train, questions, processes, message):
    with pytest.raises(UserError, match=message):
        plan_batches(change(train=train), questions, processes)
