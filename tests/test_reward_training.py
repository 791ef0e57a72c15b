"""Rewards in the trainer: what reaches them, which questions are trained on, and labels frozen before training."""

import json
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch

from tests.test_trainer import assert_same_gradient, change, flat, make
from ttrl_repro.algorithms import ReinforcePP
from ttrl_repro.errors import UserError
from ttrl_repro.models import load_model
from ttrl_repro.rewards import REWARDS, Majority, Reward
from ttrl_repro.trainer import TTRLTrainer

LABEL_FREE = [
    *(name for name in REWARDS.own if not REWARDS.get(name).needs_gold),
    {"name": "weighted", "by": "self_certainty"},
]


def one_step(tmp_path, gold="own", **sections):
    trainer, results = make(change(**{"train": {"steps": 1}, **sections}), tmp_path, gold)
    trainer.train()
    return trainer, results[0]


# -- what reaches a reward ---------------------------------------------------------------------------


def test_statistics_of_the_samples_are_means_over_their_tokens(tmp_path):
    trainer, result = one_step(tmp_path, reward={"name": "weighted", "by": "self_certainty"})
    given = trainer.rollouts[0][2].rollouts
    lengths = [group.lengths for group in trainer.rollouts[0][2].groups]
    weighted = sum((row * length).sum() for row, length in zip(given.entropies_QN, lengths, strict=True))
    assert weighted / sum(length.sum() for length in lengths) == pytest.approx(result.metrics["entropy"])
    assert [row.tolist() for row in given.mean_logprobs_QN] == [
        group.mean_logprobs.tolist() for group in trainer.rollouts[0][2].groups
    ]
    # Against the base's own forward pass, of the first question's first trained sample.
    model, _ = load_model("mini-xs")
    group, out = trainer.rollouts[0][2].groups[0], trainer.rollouts[0][1]
    prompt, completion = out["prompt_ids"][0], out["completion_ids"][0]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    logp = torch.log_softmax(logits.double(), -1)
    certainty = (-np.log(logp.shape[-1]) - logp.mean(-1)).mean()
    assert given.certainties_QN[0][group.trained[0]] == pytest.approx(float(certainty), abs=1e-4)


@pytest.mark.parametrize("reward", LABEL_FREE, ids=str)
def test_true_labels_do_not_reach_a_label_free_reward(tmp_path, reward):
    weights = []
    for gold in ("own", "shuffled", None):
        trainer, result = one_step(tmp_path / str(gold), gold, reward=reward)
        weights.append({n: p.detach().clone() for n, p in trainer.model.named_parameters()})
        assert "target_accuracy" in result.metrics or gold is None
        assert trainer.rollouts[0][2].rollouts.gold_Q is None
    for other in weights[1:]:
        assert all(torch.equal(weight, other[name]) for name, weight in weights[0].items())


@pytest.mark.parametrize("reward", ["entropy", "self_certainty", {"name": "weighted", "by": "self_certainty"}], ids=str)
def test_an_engine_without_distributions_is_refused_before_any_work(tmp_path, reward):
    engine = SimpleNamespace(name="blind", sees_distributions=False)
    with pytest.raises(UserError, match=r"needs the distributions .* engine 'blind' does not give; use rollout.engine"):
        TTRLTrainer(None, None, engine, change(reward=reward), {}, None, tmp_path / "checkpoints", print)
    assert not any(tmp_path.iterdir())


# -- which questions are trained on --------------------------------------------------------------------


def test_updates_of_wrong_and_of_right_labels_add_up_to_the_whole(tmp_path):
    """With an algorithm whose advantages are per question: the loss's divisor does not depend on what is kept."""
    found = {only: one_step(tmp_path / only, train={"steps": 1, "only": only})
             for only in ("all", "wrong_label", "right_label")}  # fmt: skip
    whole, wrong, right = (trainer.gradients[0] for trainer, _ in found.values())
    assert_same_gradient({name: wrong[name] + right[name] for name in whole}, whole)
    assert min(flat(wrong).norm(), flat(right).norm()) > 0.05 * flat(whole).norm()  # neither is nothing
    accuracy = found["all"][1].metrics["label_accuracy"]
    assert 0 < accuracy < 1
    assert [result.metrics["kept_rate"] for _, result in found.values()] == pytest.approx([1, 1 - accuracy, accuracy])
    assert [result.metrics["kept_target_accuracy"] for _, result in found.values()] == [accuracy, 0, 1]
    for trainer, result in found.values():
        kept = trainer.rollouts[0][2].kept_Q
        assert (trainer.rollouts[0][2].advantages_QG[~kept] == 0).all()
        assert [row["kept"] for row in result.votes] == kept.tolist()
        # What is measured does not depend on what is trained on.
        for name in ("label_accuracy", "target_accuracy", "reward_accuracy", "wrong_label_reward_accuracy"):
            assert result.metrics[name] == found["all"][1].metrics[name]


def test_questions_that_are_left_out_have_no_part_in_a_baseline(tmp_path):
    trainer, result = one_step(tmp_path, reward={"name": "gated", "least_ratio": 0.4}, algorithm="reinforce_pp")
    pending = trainer.rollouts[0][2]
    kept = pending.kept_Q
    assert kept.tolist() == [group.vote.majority_ratio >= 0.4 for group in pending.groups]
    assert 1 < kept.sum() < len(kept)
    assert result.metrics["kept_rate"] == kept.mean()
    trained_QG = np.stack([group.trained for group in pending.groups])
    rewards_QG = np.take_along_axis(pending.rewards_QN, trained_QG, axis=1)
    assert (pending.advantages_QG[~kept] == 0).all()
    assert pending.advantages_QG[kept].tolist() == ReinforcePP().advantages(rewards_QG[kept]).tolist()
    assert not np.allclose(pending.advantages_QG[kept], ReinforcePP().advantages(rewards_QG)[kept])


class Nothing(Majority):
    """Trains on no question."""

    name: Literal["nothing"] = "nothing"

    def keeps(self, rollouts):
        return np.zeros(len(rollouts.question_ids), dtype=bool)


@pytest.mark.parametrize("algorithm", ["grpo", "reinforce_pp", "ppo", "prime"])
def test_a_step_without_any_question_to_train_on_changes_no_weight(tmp_path, algorithm):
    trainer, result = one_step(tmp_path, reward=Nothing(), algorithm=algorithm)
    assert flat(trainer.gradients[0]).abs().max() == 0
    assert (result.metrics["kept_rate"], result.metrics["loss"]) == (0, 0)
    assert result.metrics["kept_target_accuracy"] is None
    assert result.metrics["advantage_accuracy"] is None


@pytest.mark.parametrize("algorithm", ["grpo", "ppo", "prime"])
def test_questions_that_are_left_out_do_not_move_the_weights(tmp_path, algorithm):
    """Their rewards may be anything: the update is the same."""

    class Noisy(Majority):
        name: Literal["noisy"] = "noisy"
        other: float = 0.0

        def keeps(self, rollouts):
            return np.arange(len(rollouts.question_ids)) < 4

        def rewards(self, rollouts):
            rewards_QN = super().rewards(rollouts)
            rewards_QN[4:, ::2] = self.other
            return rewards_QN

    found = [one_step(tmp_path / str(other), reward=Noisy(other=other), algorithm=algorithm)[0].gradients[0]
             for other in (0.0, 1.0)]  # fmt: skip
    assert flat(found[0]).norm() > 0
    assert_same_gradient(*found)


def test_the_causal_switch_needs_true_labels(tmp_path):
    with pytest.raises(UserError, match=r"train\.only: 'wrong_label' reads true labels, and the task has none"):
        make(change(train={"only": "wrong_label"}), tmp_path, None)


# -- labels frozen before training -----------------------------------------------------------------------


def test_frozen_labels_are_the_base_s_vote_at_every_step(tmp_path):
    """Four steps of ten questions: the fourth meets ten of the first three's again, with other weights."""
    trainer, results = make(change(reward="frozen", train={"steps": 4}), tmp_path)
    trainer.train()
    written = json.loads((tmp_path / "frozen_labels.json").read_text())
    assert list(written) == list(trainer.prompts)
    assert all(label["n"] == 16 and label["tokens"] > 16 for label in written.values())
    rows = [row for result in results for row in result.votes]
    assert all(row["target_key"] == written[row["question_id"]]["key"] for row in rows)
    moved = [row for row in rows if row["target_key"] != row["label_key"]]
    assert 0 < len(moved) < len(rows)  # votes move on, labels stay
    for result in results:
        by_id = {row["question_id"]: row["target_key"] for row in result.votes}
        for row in result.samples:
            assert row["reward"] == float(row["key"] is not None and row["key"] == by_id[row["question_id"]])
        right = [trainer.gold[question] == key for question, key in by_id.items()]
        assert result.metrics["target_accuracy"] == np.mean(right)
        assert result.metrics["label_accuracy"] == np.mean([row["label_correct"] for row in result.votes])


def test_frozen_labels_of_the_record_are_read_back(tmp_path):
    trainer, results = make(change(reward="frozen", train={"steps": 1}), tmp_path)
    label = {"label": "1/7", "key": "1/7", "n": 16, "majority_ratio": 1.0, "tokens": 99}
    path = tmp_path / "frozen_labels.json"
    path.write_text(json.dumps(dict.fromkeys(trainer.prompts, label)))
    trainer.train()
    assert results[0].metrics["majority_voting_reward"] == 0  # nobody answers 1/7
    assert {row["target_key"] for row in results[0].votes} == {"1/7"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read the frozen labels"),
        ('{"a": 1}', "cannot read the frozen labels"),
        ('{"a": {"key": "1"}}', "cannot read the frozen labels"),
        ("[]", "cannot read the frozen labels"),
        ("{}", "its questions are not the task's"),
    ],
)
def test_frozen_labels_that_are_not_the_run_s_are_refused(tmp_path, content, message):
    trainer, _ = make(change(reward="frozen", train={"steps": 1}), tmp_path)
    (tmp_path / "frozen_labels.json").write_text(content)
    with pytest.raises(UserError, match=message):
        trainer.train()
    assert (tmp_path / "frozen_labels.json").read_text() == content


def test_other_rewards_freeze_nothing(tmp_path):
    one_step(tmp_path)
    assert not (tmp_path / "frozen_labels.json").exists()


# -- noise on true labels --------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["modal", "random"])
def test_the_same_questions_have_wrong_labels_at_every_step(tmp_path, wrong):
    trainer, results = make(
        change(reward={"name": "noisy_oracle", "correct": 0.5, "wrong": wrong}, train={"steps": 6}), tmp_path
    )
    trainer.train()
    right = {}
    for result in results:
        for row in result.votes:
            right.setdefault(row["question_id"], set()).add(row["target_key"] == trainer.gold[row["question_id"]])
    assert all(len(verdicts) == 1 for verdicts in right.values())
    assert 6 < sum(True in verdicts for verdicts in right.values()) < 24  # of 30: 3.3 standard deviations of 2.7
    assert np.mean([result.metrics["target_accuracy"] for result in results]) == pytest.approx(
        sum(True in verdicts for verdicts in right.values()) / 30
    )


def test_rewards_that_are_not_0_or_1_have_no_reward_accuracy(tmp_path):
    for reward in ("soft", "entropy", "self_certainty"):
        trainer, result = one_step(tmp_path / reward, reward=reward)
        assert result.metrics["reward_accuracy"] is None
        assert result.metrics["target_accuracy"] is None
        assert 0 <= result.metrics["label_accuracy"] <= 1
        assert flat(trainer.gradients[0]).norm() > 0


def test_a_reward_is_one_of_the_registered_ones():
    assert all(issubclass(REWARDS.get(name), Reward) for name in REWARDS.own)
