"""Adaptive voting in the rollout: samples of a question are drawn until its majority is decided."""

import numpy as np
import pytest

from tests.test_rollouts import engines, wanted
from tests.test_trainer import change, make
from ttrl_repro.adaptive import SequentialRule
from ttrl_repro.config import Experiment
from ttrl_repro.records import read_jsonl
from ttrl_repro.rollouts import Samples, sample_until_decided
from ttrl_repro.run import start
from ttrl_repro.votes import vote


class Scripted:
    """An engine whose n-th completion of question q is the token answers[q][n]; counts what it was asked for."""

    name = "scripted"

    def __init__(self, answers):
        self.answers, self.asked = answers, [0] * len(answers)

    def sample(self, prompts, uniforms_QNT, sampling, report=lambda _: None):
        size = uniforms_QNT.shape[1]
        rows = []
        for (q,) in prompts:
            rows.append(self.answers[q][self.asked[q] : self.asked[q] + size])
            self.asked[q] += size
        tokens = np.array(rows, dtype=np.int64)[:, :, None]
        one, ones = np.ones(tokens.shape[:2], dtype=np.int64), np.ones(tokens.shape, dtype=np.float32)
        return Samples(tokens, one, one.astype(bool), -ones, ones)


def drawn(answers, error, chunk=8, at_least=1):
    engine, n = Scripted(answers), len(answers[0])
    samples, drawn_Q = sample_until_decided(
        engine,
        [[q] for q in range(len(answers))],
        np.zeros((len(answers), n, 3)),
        None,
        SequentialRule(n, chunk, error),
        at_least,
        lambda completions: [str(ids[0]) for ids in completions],
    )
    assert engine.asked == drawn_Q.tolist()
    return samples, drawn_Q.tolist()


def test_a_unanimous_question_stops_and_a_close_one_goes_on():
    unanimous, close = [7] * 64, [1, 2] * 32
    samples, counts = drawn([unanimous, close], error=0.05)
    assert counts == [8, 64]
    assert samples.lengths_QN.sum(axis=1).tolist() == [8, 64]
    assert samples.ids(0, 7) == [7]
    assert samples.tokens_QNT[0, 8:].sum() == 0  # not drawn
    assert samples.tokens_QNT[1, :, 0].tolist() == close
    assert samples.certainties_QNT is None  # this engine gives none


def test_with_error_0_the_label_is_always_that_of_the_full_vote():
    rng = np.random.default_rng(0)
    answers = rng.choice(4, size=(50, 32), p=[0.5, 0.3, 0.1, 0.1]).tolist()
    samples, counts = drawn(answers, error=0.0, chunk=4)
    assert 16 <= min(counts) < 32  # stopped early, but never before half of the votes are in
    for q, count in enumerate(counts):
        early = vote([str(samples.ids(q, n)[0]) for n in range(count)])
        full = vote(list(map(str, answers[q])))
        assert full.counts[early.key] == max(full.counts.values())


def test_no_look_before_the_samples_that_training_needs():
    assert drawn([[7] * 64], error=0.05, at_least=24)[1] == [24]
    assert drawn([[7] * 64], error=0.05, at_least=64)[1] == [64]


def test_the_samples_are_the_first_of_those_of_a_full_vote(tiny_model, tokenizer):
    cpu, _ = engines(tiny_model, tokenizer)
    prompts, noise, sampling = wanted(tokenizer, 16)
    full = cpu.sample(prompts, noise, sampling)
    # The second question gives one answer always, and so is decided; the others never agree.
    decided = [full.ids(1, n) for n in range(16)]
    other = iter(range(10**6))
    samples, drawn_Q = sample_until_decided(
        cpu,
        prompts,
        noise,
        sampling,
        SequentialRule(16, 4, 0.05),
        4,
        lambda completions: ["same" if ids in decided else str(next(other)) for ids in completions],
    )
    assert drawn_Q[1] < 16
    assert sorted(set(drawn_Q.tolist()) - {drawn_Q[1]}) == [16]
    for q, count in enumerate(drawn_Q):
        for n in range(count):
            assert samples.ids(q, n) == full.ids(q, n)
            np.testing.assert_allclose(samples.logprobs(q, n), full.logprobs(q, n), atol=1e-4)
        np.testing.assert_allclose(samples.certainties_QNT[q, :count], full.certainties_QNT[q, :count], atol=1e-4)
        assert not samples.certainties_QNT[q, count:].any()


def test_a_run_with_adaptive_voting_draws_less_and_still_trains_g(tmp_path):
    experiment = change(rollout={"votes": 32, "trained": 4, "adaptive_error": 0.05, "adaptive_chunk": 4})
    trainer, results = make(experiment, tmp_path)
    trainer.train()
    _, out, pending = trainer.rollouts[0]
    sizes = [group.vote.n for group in pending.groups]
    assert min(sizes) < max(sizes)
    assert len(out["completion_ids"]) == 10 * 4
    assert all(group.trained.max() < group.vote.n for group in pending.groups)
    found = results[0].metrics
    assert found["samples_per_question"] == np.mean(sizes)
    assert 4 <= found["samples_per_question"] < 32
    assert len(results[0].samples) == sum(sizes)
    # What was not drawn counts neither as wrong nor as an abstention.
    assert found["abstention_rate"] == sum(group.vote.abstained for group in pending.groups) / sum(sizes)
    assert 0 <= found["reward_accuracy"] <= 1
    assert found["majority_voting_reward"] == pytest.approx(found["majority_ratio"])
    assert not any(name.startswith("pass@") for name in found)


def test_fallbacks_are_off_and_counted_when_on(tmp_path):
    content = {
        "name": "t",
        "task": "mini-30",
        "model": "mini-xs",
        "rollout": {"votes": 8, "trained": 4, "max_new_tokens": 12},  # most samples are cut before their box
        "train": {"steps": 1, "questions_per_step": 5},
        "evaluate": {"every": 1, "k": 2, "votes": 2, "base_temperatures": [0.6], "fresh": False},
    }
    lines = []
    for last_number in (False, True):
        folder = tmp_path / str(last_number)
        start(Experiment.model_validate({**content, "answers": {"last_number": last_number}}), folder)
        lines.append(read_jsonl(folder / "metrics.jsonl")[0])
    strict, loose = lines
    assert strict["parse_timeout_rate"] == strict["parse_error_rate"] == 0
    assert "fallback_rate" not in strict
    assert loose["fallback_rate"] > 0.3
    assert loose["abstention_rate"] == pytest.approx(strict["abstention_rate"] - loose["fallback_rate"])
