import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ttrl_repro.errors import UserError
from ttrl_repro.native.library import load
from ttrl_repro.native.support import unsupported
from ttrl_repro.rollouts import Sampling, end_of_sequence_ids, make_engine, uniforms
from ttrl_repro.rollouts.base import pick
from ttrl_repro.rollouts.cpu import CpuEngine
from ttrl_repro.rollouts.generate import GenerateEngine
from ttrl_repro.rollouts.native_decoder import NativeDecoder
from ttrl_repro.rollouts.torch_decoder import TorchDecoder

PROMPTS = ["1+2=", "47+36*7=", "5-3=", "12*3+44%5-6="]  # four lengths: padding and its mask are in play
T = 24


def wanted(tokenizer, n, temperature=1.0, top_p=1.0, prompts=PROMPTS):
    return (
        [tokenizer(p).input_ids for p in prompts],
        uniforms(7, prompts, n, T),
        Sampling(temperature, top_p, T),
    )


@pytest.fixture(params=["native", "torch"], autouse=True)
def decoder(request, monkeypatch):
    """Every test here runs with both decoders of the CPU engine."""
    if request.param == "torch":
        monkeypatch.setattr("ttrl_repro.rollouts.cpu.native_library", lambda _: "the test wants it off")
    elif isinstance(load(), str):
        pytest.skip(f"the native code is not available: {load()}")
    return request.param


def engines(model, tokenizer, batches=1):
    """Both engines; with `batches` > 1 they take the questions in several batches."""
    eos, pad = end_of_sequence_ids(model, tokenizer), tokenizer.pad_token_id
    engine = CpuEngine(model, eos, pad)
    if batches > 1:
        if isinstance(engine.decoder, TorchDecoder):
            engine.decoder.cache_bytes = 1
        return engine, GenerateEngine(model, eos, pad, rows=8)
    return engine, GenerateEngine(model, eos, pad)


def test_the_decoder_is_the_one_asked_for(tiny_model, tokenizer, decoder):
    engine, _ = engines(tiny_model, tokenizer)
    assert isinstance(engine.decoder, NativeDecoder if decoder == "native" else TorchDecoder)
    assert engine.slower == (None if decoder == "native" else "the test wants it off")


@pytest.mark.parametrize("batches", [1, 4])
@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (0.6, 0.95)])
def test_the_cpu_engine_is_model_generate(tiny_model, tokenizer, batches, temperature, top_p):
    cpu, reference = engines(tiny_model, tokenizer, batches)
    ours = cpu.sample(*wanted(tokenizer, 8, temperature, top_p))
    theirs = reference.sample(*wanted(tokenizer, 8, temperature, top_p))
    assert np.array_equal(ours.tokens_QNT, theirs.tokens_QNT)
    assert np.array_equal(ours.lengths_QN, theirs.lengths_QN)
    assert np.array_equal(ours.finished_QN, theirs.finished_QN)
    np.testing.assert_allclose(ours.logprobs_QNT, theirs.logprobs_QNT, atol=1e-4)
    np.testing.assert_allclose(ours.entropies_QNT, theirs.entropies_QNT, atol=1e-4)
    np.testing.assert_allclose(ours.certainties_QNT, theirs.certainties_QNT, atol=1e-4)
    assert not ours.certainties_QNT[np.arange(T) >= ours.lengths_QN[..., None]].any()
    if temperature > 0:
        assert 0 < ours.finished_QN.mean() < 1  # rows ended early, and rows were cut: both paths ran
        assert len(np.unique(ours.lengths_QN)) > 3


def test_log_probabilities_are_those_of_a_full_forward_pass(tiny_model, tokenizer):
    cpu, _ = engines(tiny_model, tokenizer)
    prompts, noise, sampling = wanted(tokenizer, 6, temperature=0.7)
    samples = cpu.sample(prompts, noise, sampling)
    for q, prompt in enumerate(prompts):
        for n in range(6):
            ids = samples.ids(q, n)
            with torch.no_grad():
                logits = tiny_model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
            expected = torch.log_softmax(logits / 0.7, -1)
            found = torch.tensor(samples.logprobs(q, n))
            torch.testing.assert_close(found, expected[range(len(ids)), ids], atol=1e-4, rtol=0)
            entropy = -(expected.exp() * expected).sum(-1)
            got = torch.from_numpy(samples.entropies_QNT[q, n, : len(ids)])
            torch.testing.assert_close(got, entropy, atol=1e-4, rtol=0)
            uniform = torch.full_like(expected, 1 / expected.shape[-1])
            certainty = (uniform * (uniform.log() - expected)).sum(-1)  # KL(uniform || p)
            got = torch.from_numpy(samples.certainties_QNT[q, n, : len(ids)])
            torch.testing.assert_close(got, certainty, atol=1e-4, rtol=0)
            assert certainty.min() > 0.01


def test_logits_of_prefill_and_of_every_decoded_token(tiny_model, tokenizer, monkeypatch, decoder):
    """All logits that the engine ever picks from, on padded prompts, against full forward passes."""
    from ttrl_repro.rollouts import torch_decoder as module

    if decoder == "native":
        pytest.skip("the native code shows no logits; its log-probabilities and entropies are tested above")

    picked = []

    def recording(logits_RV, *rest):
        picked.append(logits_RV.clone())
        return pick(logits_RV, *rest)

    monkeypatch.setattr(module, "pick", recording)
    monkeypatch.setattr(module, "COMPACT_BELOW", 0.0)  # rows stay where they are, so that we can follow them
    engine, _ = engines(tiny_model, tokenizer)
    prompts, noise, sampling = wanted(tokenizer, 3)
    samples = engine.sample(prompts, noise, sampling)
    order = sorted(range(len(prompts)), key=lambda q: (len(prompts[q]), q))
    compared = 0
    for row, (q, n) in enumerate((q, n) for q in order for n in range(3)):
        ids = samples.ids(q, n)
        with torch.no_grad():
            expected = tiny_model(torch.tensor([prompts[q] + ids])).logits[0, len(prompts[q]) - 1 : -1]
        found = torch.stack([picked[t][row] for t in range(len(ids))])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        compared += len(ids)
    assert compared > 60


def test_the_model_s_own_generation_settings_do_not_leak(tiny_model, tokenizer):
    """generate() would fill in a penalty from the model's generation config: votes must not be shaped by it."""
    cpu, reference = engines(tiny_model, tokenizer)
    tiny_model.generation_config.repetition_penalty = 1.5
    tiny_model.generation_config.suppress_tokens = [4, 5]
    theirs = reference.sample(*wanted(tokenizer, 8))
    assert tiny_model.generation_config.repetition_penalty == 1.5  # the model is left as it was
    assert np.array_equal(cpu.sample(*wanted(tokenizer, 8)).tokens_QNT, theirs.tokens_QNT)


def test_the_engine_follows_the_live_weights(tiny_model, tokenizer):
    cpu, _ = engines(tiny_model, tokenizer)
    before = cpu.sample(*wanted(tokenizer, 2))
    with torch.no_grad():
        tiny_model.model.layers[0].mlp.down_proj.weight.mul_(0)
    after = cpu.sample(*wanted(tokenizer, 2))
    assert not np.array_equal(before.logprobs_QNT, after.logprobs_QNT)


def test_a_sample_does_not_depend_on_its_company(tiny_model, tokenizer):
    cpu, _ = engines(tiny_model, tokenizer)
    together = cpu.sample(*wanted(tokenizer, 8))
    alone = cpu.sample(*wanted(tokenizer, 8, prompts=PROMPTS[1:2]))
    fewer = cpu.sample(*wanted(tokenizer, 3))
    assert np.array_equal(together.tokens_QNT[1], alone.tokens_QNT[0])
    assert np.array_equal(together.tokens_QNT[:, :3], fewer.tokens_QNT)


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_sampled_frequencies(tiny_model, tokenizer, top_p):
    """Chi-square of the first token against the model's own (nucleus) distribution, at a fixed seed."""
    cpu, _ = engines(tiny_model, tokenizer)
    n, prompt = 4000, tokenizer("47+36*7=").input_ids
    tokens = cpu.sample([prompt], uniforms(11, ["q"], n, 1), Sampling(1.0, top_p, 1)).tokens_QNT[0, :, 0]
    with torch.no_grad():
        p = torch.softmax(tiny_model(torch.tensor([prompt])).logits[0, -1].double(), -1).numpy()
    order = np.argsort(-p)
    kept = order[: int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1] if top_p < 1 else order
    allowed = np.zeros_like(p)
    allowed[kept] = p[kept] / p[kept].sum()
    counts = np.bincount(tokens, minlength=len(p))
    assert counts[allowed == 0].sum() == 0
    large = allowed * n >= 5  # the test's own condition; the rest is pooled
    observed = np.append(counts[large], counts[~large].sum())
    expected = np.append(allowed[large], allowed[~large].sum()) * n
    keep = expected > 0
    assert keep.sum() > 4
    assert scipy_stats.chisquare(observed[keep], expected[keep]).pvalue > 1e-3


def test_pick_exact():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).repeat(4, 1)
    u = torch.tensor([0.0, 0.499, 0.501, 0.999])
    assert pick(logits, u, Sampling(1.0, 1.0, 1))[0].tolist() == [0, 0, 1, 2]
    # top-p 0.75 keeps 0.5 and 0.3 (the smallest set with at least 0.75), renormalised to 0.625 and 0.375.
    assert pick(logits, torch.tensor([0.6, 0.63, 0.9, 0.9999]), Sampling(1.0, 0.75, 1))[0].tolist() == [
        0,
        1,
        1,
        1,
    ]
    token, logprob, entropy, certainty = pick(logits, u, Sampling(0.0, 1.0, 1))
    assert token.tolist() == [0, 0, 0, 0]
    assert logprob.exp().tolist() == pytest.approx([0.5] * 4)
    assert entropy[0].item() == pytest.approx(-sum(p * np.log(p) for p in (0.5, 0.3, 0.2)))
    assert certainty[0].item() == pytest.approx(sum(1 / 3 * np.log(1 / 3 / p) for p in (0.5, 0.3, 0.2)))
    # Of a uniform distribution it is 0, at any temperature.
    flat = pick(torch.zeros(1, 22), u[:1], Sampling(0.7, 1.0, 1))[3]
    assert flat.item() == pytest.approx(0, abs=1e-6)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=9), st.floats(0, 1, exclude_max=True), st.floats(0.05, 1))
def test_pick_never_takes_an_impossible_token(values, u, top_p):
    logits = torch.tensor([[*values, float("-inf")]])
    token, logprob, entropy, _ = pick(logits, torch.tensor([u], dtype=torch.float64), Sampling(1.0, top_p, 1))
    assert 0 <= token.item() < len(values)
    assert torch.isfinite(logprob).all()
    assert torch.isfinite(entropy).all()


def test_uniform_streams():
    noise = uniforms(3, ["a", "b"], 4, 5)
    assert noise.shape == (2, 4, 5)
    assert np.array_equal(noise[1], uniforms(3, ["b"], 4, 5)[0])
    assert np.array_equal(noise[:, :2], uniforms(3, ["a", "b"], 2, 5))
    assert not np.array_equal(noise, uniforms(4, ["a", "b"], 4, 5))


def test_refusals(tiny_model, tokenizer):
    cpu, _ = engines(tiny_model, tokenizer)
    with pytest.raises(ValueError, match="positions"):
        cpu.sample([[1] * 150], uniforms(0, ["q"], 1, T), Sampling(1.0, 1.0, T))
    with pytest.raises(ValueError, match="empty prompt"):
        cpu.sample([[]], uniforms(0, ["q"], 1, T), Sampling(1.0, 1.0, T))
    with pytest.raises(ValueError, match="temperature"):
        Sampling(-0.1, 1.0, 1)
    tiny_model.config.model_type = "llama"
    assert "llama" in unsupported(tiny_model)
    with pytest.raises(UserError, match=r"rollout\.engine: 'cpu' cannot run this model"):
        make_engine("cpu", tiny_model, tokenizer)
    assert make_engine("auto", tiny_model, tokenizer).name == "transformers"
