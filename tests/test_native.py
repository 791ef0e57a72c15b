"""The native code against PyTorch: log-probabilities, entropies, gradients, and what it refuses."""

import os
import platform
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from ttrl_repro.miniature import tokenizer
from ttrl_repro.miniature.pretrain import build_model
from ttrl_repro.miniature.recipes import Architecture
from ttrl_repro.native import library as native
from ttrl_repro.native import threads
from ttrl_repro.native.logprobs import LogProbs
from ttrl_repro.native.support import native_library
from ttrl_repro.rollouts import Sampling, uniforms
from ttrl_repro.rollouts.native_decoder import NativeDecoder
from ttrl_repro.rollouts.torch_decoder import TorchDecoder

LIBRARY = native.load()
needs_native = pytest.mark.skipif(isinstance(LIBRARY, str), reason=f"the native code is not available: {LIBRARY}")
VOCABULARY = len(tokenizer.VOCABULARY)

# Widths that are multiples of the panels and widths that are not; one, two and four heads to a key/value head.
SHAPES = {
    "plain": {"hidden_size": 64, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 32, "intermediate_size": 96},
    "odd widths": {"hidden_size": 40, "layers": 3, "heads": 2, "kv_heads": 2, "head_dim": 16, "intermediate_size": 52},
    "many heads": {"hidden_size": 48, "layers": 1, "heads": 8, "kv_heads": 2, "head_dim": 16, "intermediate_size": 33},
    "wide heads": {"hidden_size": 32, "layers": 2, "heads": 1, "kv_heads": 1, "head_dim": 64, "intermediate_size": 64},
}


def random_model(shape, *, tied=True):
    model = build_model(Architecture(**SHAPES[shape]), seed=3).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Large enough for preferences; norm weights that are not 1, so that leaving one out shows.
            parameter.mul_(8) if parameter.dim() >= 2 else parameter.uniform_(0.5, 1.5, generator=generator(name))
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, 64, generator=generator("head")) / 4)
    return model


def generator(name):
    return torch.Generator().manual_seed(sum(name.encode()))


def random_rows(seed=0):
    """Prompts in groups, one of them twice and apart; completions of many lengths, one and none among them."""
    rng = np.random.default_rng(seed)
    by_prompt = [(5, [3, 9, 1, 0, 17, 40]), (1, [4]), (23, [2, 2, 33, 5, 8, 1, 1]), (16, [0]), (16, [16, 15, 17])]
    prompts, completions = [], []
    for length, wanted in by_prompt:
        prompt = rng.integers(0, VOCABULARY, length).tolist()
        for size in wanted:
            prompts.append(prompt)
            completions.append(rng.integers(0, VOCABULARY, size).tolist())
    prompts.append(prompts[0])
    completions.append([1, 2, 3])
    return prompts, completions


def by_torch(model, prompts, completions, temperature):
    """The same as `LogProbs`, a row at a time."""
    width = max(map(len, completions))
    logprobs, entropies = [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / temperature
        logp = torch.log_softmax(logits, -1)
        pads = (0, width - len(completion))
        logprobs.append(torch.nn.functional.pad(logp[range(len(completion)), completion], pads))
        entropies.append(torch.nn.functional.pad(-(logp.exp() * logp).sum(-1), pads))
    return torch.stack(logprobs), torch.stack(entropies)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@needs_native
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("shape", "tied"), [*((shape, True) for shape in SHAPES), ("plain", False)])
def test_log_probabilities_entropies_and_gradients_are_pytorch_s(shape, temperature, tied):
    model, (prompts, completions) = random_model(shape, tied=tied), random_rows()
    expected, expected_entropies = by_torch(model, prompts, completions, temperature)
    found, entropies = LogProbs(model, LIBRARY)(prompts, completions, temperature)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(entropies, expected_entropies, atol=2e-4, rtol=1e-4)
    # A weight for every token, and a function that is not linear, as a clipped ratio is not.
    weights = torch.randn(expected.shape, generator=generator("weights"))
    theirs = gradients(model, (torch.sigmoid(expected) * weights).sum())
    ours = gradients(model, (torch.sigmoid(found) * weights).sum())
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert gradient.norm() > 0, name
        assert (ours[name] - gradient).norm() / gradient.norm() < 2e-4, name


@needs_native
def test_gradients_add_up_over_calls():
    model, (prompts, completions) = random_model("plain"), random_rows()
    logprobs = LogProbs(model, LIBRARY)
    whole = gradients(model, logprobs(prompts, completions, 1.0)[0].sum())
    model.zero_grad()
    for part in (slice(0, 7), slice(7, None)):
        logprobs(prompts[part], completions[part], 1.0)[0].sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], atol=1e-3, rtol=1e-3)


@needs_native
def test_equal_calls_are_bitwise_equal():
    model, (prompts, completions) = random_model("plain"), random_rows()
    logprobs = LogProbs(model, LIBRARY)
    first = gradients(model, logprobs(prompts, completions, 1.0)[0].sum())
    second = gradients(model, logprobs(prompts, completions, 1.0)[0].sum())
    assert all(torch.equal(first[name], second[name]) for name in first)


@needs_native
def test_padded_rows():
    model = random_model("plain")
    logprobs = LogProbs(model, LIBRARY)
    ids = torch.tensor([[0, 3, 4, 5, 6, 0], [1, 2, 3, 9, 8, 7]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]])
    found, _ = logprobs.padded(ids, mask, 3, 1.0)
    expected, _ = logprobs([[3, 4], [1, 2, 3]], [[5, 6], [9]], 1.0)
    assert found.shape == (2, 3)
    assert torch.equal(found[:, :2], expected)
    assert found[0, 2] == found[1, 1] == found[1, 2] == 0
    for hole in ([1, 0, 1, 1, 1, 1], [1, 1, 1, 0, 1, 1]):
        with pytest.raises(ValueError, match="holes"):
            logprobs.padded(ids[:1], torch.tensor([hole]), 3, 1.0)


@needs_native
def test_a_backward_pass_whose_memory_is_gone_is_refused():
    model, (prompts, completions) = random_model("plain"), random_rows()
    logprobs = LogProbs(model, LIBRARY)
    first, _ = logprobs(prompts, completions, 1.0)
    logprobs(prompts, completions, 1.0)
    with pytest.raises(RuntimeError, match="used by a later one"):
        first.sum().backward()


@needs_native
def test_a_parameter_changed_before_the_backward_pass_is_refused():
    model, (prompts, completions) = random_model("plain"), random_rows()
    found, _ = LogProbs(model, LIBRARY)(prompts, completions, 1.0)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.5)
    with pytest.raises(RuntimeError, match="changed in place"):
        found.sum().backward()


@needs_native
def test_an_interrupted_pass_has_used_the_memory(monkeypatch):
    model, (prompts, completions) = random_model("plain"), random_rows()
    logprobs = LogProbs(model, LIBRARY)
    first, _ = logprobs(prompts, completions, 1.0)

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(threads, "together", interrupt)
    with pytest.raises(KeyboardInterrupt):
        logprobs(prompts, completions, 1.0)
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="used by a later one"):
        first.sum().backward()


@needs_native
@pytest.mark.parametrize(
    ("prompts", "completions", "message"),
    [
        ([[1], []], [[2], [3]], "an empty prompt"),
        ([[1] * 100], [[2] * 61], "161 tokens exceed the model's 160 positions"),
        ([[1, VOCABULARY]], [[2]], f"outside the vocabulary of {VOCABULARY}"),
        ([[1, 2]], [[VOCABULARY]], f"outside the vocabulary of {VOCABULARY}"),
        ([[1, 2]], [[3, -1]], f"outside the vocabulary of {VOCABULARY}"),
    ],
)
def test_rows_that_would_reach_outside_the_model_s_memory(prompts, completions, message):
    with pytest.raises(ValueError, match=message):
        LogProbs(random_model("plain"), LIBRARY)(prompts, completions, 1.0)


@needs_native
def test_frozen_parameters_get_no_gradient():
    model, (prompts, completions) = random_model("plain"), random_rows()
    model.model.norm.weight.requires_grad_(False)
    LogProbs(model, LIBRARY)(prompts, completions, 1.0)[0].sum().backward()
    assert model.model.norm.weight.grad is None
    assert model.model.embed_tokens.weight.grad.norm() > 0


def test_a_forked_child_has_threads_of_its_own():
    script = (
        "import os\n"
        "from ttrl_repro.native import threads\n"
        "threads.together([int, int])\n"
        "child = os.fork()\n"
        "threads.together([int, int])\n"
        "if child == 0:\n"
        "    os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "7"


@needs_native
def test_without_gradient_no_graph_is_built():
    model, (prompts, completions) = random_model("plain"), random_rows()
    with torch.no_grad():
        found, entropies = LogProbs(model, LIBRARY)(prompts, completions, 1.0)
    assert not found.requires_grad
    assert not entropies.requires_grad


def sampled(decoder, tokens=40, n=150, sampling=None):
    prompts = [[1, 2, 3], [4], list(range(20)), [4, 4]]
    names = [str(prompt) for prompt in prompts]
    wanted = sampling or Sampling(1.0, 1.0, tokens)
    return decoder.sample(prompts, uniforms(5, names, n, tokens), wanted, lambda _: None)


@needs_native
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-6])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_tokens_as_in_pytorch(shape, top_p, monkeypatch):
    model, eos = random_model(shape), [0, 7]
    monkeypatch.setattr("ttrl_repro.rollouts.native_decoder.ROWS", 7)  # slots are filled again and again
    wanted = Sampling(0.8, top_p, 40)
    ours = sampled(NativeDecoder(model, eos, LIBRARY), sampling=wanted)
    theirs = sampled(TorchDecoder(model, eos, 0), sampling=wanted)
    same = (ours.tokens_QNT == theirs.tokens_QNT).all(-1)
    assert same.mean() > 0.99  # a uniform number at a token's edge may fall to either side of rounding
    assert np.array_equal(ours.lengths_QN[same], theirs.lengths_QN[same])
    assert np.array_equal(ours.finished_QN[same], theirs.finished_QN[same])
    np.testing.assert_allclose(ours.logprobs_QNT[same], theirs.logprobs_QNT[same], atol=1e-3)
    np.testing.assert_allclose(ours.entropies_QNT[same], theirs.entropies_QNT[same], atol=1e-3)
    np.testing.assert_allclose(ours.certainties_QNT[same], theirs.certainties_QNT[same], atol=1e-3)


@needs_native
def test_samples_are_bitwise_the_same_in_any_company_and_on_any_number_of_threads():
    model = random_model("many heads")
    decoder = NativeDecoder(model, [0], LIBRARY)
    before = torch.get_num_threads()
    together = sampled(decoder)
    on_threads = {}
    prompt, noise = list(range(20)), uniforms(5, [str(list(range(20)))], 3, 40)
    alone = decoder.sample([prompt], noise, Sampling(1.0, 1.0, 40), lambda _: None)
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            on_threads[count] = sampled(decoder)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(together.logprobs_QNT[2, :3], alone.logprobs_QNT[0])
    assert np.array_equal(together.entropies_QNT[2, :3], alone.entropies_QNT[0])
    assert np.array_equal(together.certainties_QNT[2, :3], alone.certainties_QNT[0])
    for samples in on_threads.values():
        assert np.array_equal(together.tokens_QNT, samples.tokens_QNT)
        assert np.array_equal(together.logprobs_QNT, samples.logprobs_QNT)


@needs_native
@pytest.mark.parametrize("limit", [1, 30])
def test_extremes_of_sampling(limit, monkeypatch):
    """More questions than rows at a time, no end-of-sequence token, one token, weights that are not numbers."""
    monkeypatch.setattr("ttrl_repro.rollouts.native_decoder.ROWS", 3)
    model = random_model("plain")
    prompts = [[i % VOCABULARY] * (1 + i % 5) for i in range(40)]
    noise = uniforms(0, [str(i) for i in range(40)], 1, limit)
    wanted = Sampling(1.0, 1.0, limit)
    ours = NativeDecoder(model, [], LIBRARY).sample(prompts, noise, wanted, lambda _: None)
    theirs = TorchDecoder(model, [], 0).sample(prompts, noise, wanted, lambda _: None)
    assert ours.n_tokens == 40 * limit
    assert not ours.finished_QN.any()
    assert (ours.tokens_QNT == theirs.tokens_QNT).all(-1).mean() > 0.9
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    broken = NativeDecoder(model, [], LIBRARY).sample(prompts, noise, wanted, lambda _: None)
    assert np.isnan(broken.logprobs_QNT).all()


@needs_native
def test_finished_samples_are_reported():
    seen = []
    decoder = NativeDecoder(random_model("plain"), [0], LIBRARY)
    decoder.sample([[1], [2]], uniforms(0, ["a", "b"], 70, 30), Sampling(1.0, 1.0, 30), seen.append)
    assert sum(seen) == 140


def test_together_waits_for_every_call_before_it_raises(monkeypatch):
    release, ended = threading.Event(), []

    def slow():
        release.wait(30)
        ended.append("slow")

    def broken():
        raise ValueError("broken")

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        threads.together([slow, slow], look=interrupt, abandon=release.set)
    assert ended == ["slow", "slow"]
    release.clear()
    interrupts = iter([KeyboardInterrupt, KeyboardInterrupt])
    inner = threads.wait

    def interrupted(*arguments, **named):
        for kind in interrupts:
            raise kind
        return inner(*arguments, **named)

    monkeypatch.setattr(threads, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        threads.together([slow], abandon=release.set)
    assert len(ended) == 3
    with pytest.raises(ValueError, match="broken"):
        threads.together([broken, slow])
    assert len(ended) == 4


@needs_native
def test_an_interrupted_request_ends_early_and_the_next_one_is_whole():
    decoder = NativeDecoder(random_model("plain"), [], LIBRARY)

    def interrupt(_):
        raise KeyboardInterrupt

    noise = uniforms(0, ["a"], 20_000, 60)
    with pytest.raises(KeyboardInterrupt):
        decoder.sample([[1]], noise, Sampling(1.0, 1.0, 60), interrupt)
    samples = decoder.sample([[1]], noise[:, :10], Sampling(1.0, 1.0, 60), lambda _: None)
    assert samples.n_tokens == 600


def test_models_that_it_cannot_run(tiny_model):
    tiny_model.config.head_dim = 24
    assert "head_dim 24" in native_library(tiny_model)
    tiny_model.config.model_type = "llama"
    assert "llama" in native_library(tiny_model)


def loaded(cache, **variables):
    """What `load()` answers in a process of its own."""
    script = (
        "from ttrl_repro.native.library import load\n"
        "found = load()\n"
        "print(found if isinstance(found, str) else 'loaded')"
    )
    environment = {"XDG_CACHE_HOME": str(cache), "PATH": "/usr/local/bin:/usr/bin:/bin", **variables}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_without_a_compiler_it_says_why(tmp_path):
    assert loaded(tmp_path, TTRL_NATIVE="0") == "TTRL_NATIVE=0 is set"
    assert loaded(tmp_path, PATH="/nonexistent").startswith("no C++ compiler")
    assert loaded(tmp_path, CXX="/nonexistent/c++ -O1") == "$CXX names /nonexistent/c++, which is not on the path"
    fake = tmp_path / "c++"
    fake.write_text("#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'no such option: -march' >&2; exit 1\n")
    fake.chmod(0o755)
    assert loaded(tmp_path, CXX=str(fake)) == f"{fake} could not compile it: no such option: -march"
    assert not list((tmp_path / "ttrl-repro" / "native").iterdir())  # nothing half-made stays


@needs_native
def test_a_cache_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    assert loaded(tmp_path / "file") == "loaded"
    assert loaded("/proc/nope") == "loaded"
    assert loaded(tmp_path) == "loaded"
    (made,) = (tmp_path / "ttrl-repro" / "native").iterdir()
    made.write_text("no library")
    assert loaded(tmp_path) == "loaded"
    assert made.stat().st_size > 5000  # it was made again


@needs_native
def test_compiler_options_cannot_change_the_arithmetic(tmp_path):
    options = "-ffast-math -fvisibility=hidden"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "TTRL_CXXFLAGS": options}
    test = f"{__file__}::{test_log_probabilities_entropies_and_gradients_are_pytorch_s.__name__}"
    command = [sys.executable, "-m", "pytest", "-o", "addopts=-q", "-p", "no:cacheprovider", test]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout


@needs_native
def test_it_is_compiled_once(tmp_path):
    assert loaded(tmp_path) == "loaded"
    (made,) = (tmp_path / "ttrl-repro" / "native").iterdir()
    when = made.stat().st_mtime_ns
    assert loaded(tmp_path) == "loaded"
    assert made.stat().st_mtime_ns == when


@needs_native
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are options for x86-64")
@pytest.mark.parametrize(("options", "width"), [("-mno-avx512f", 8), ("-mno-avx", 4)])
def test_narrower_vectors(tmp_path, options, width):
    """The code for older processors, by the tests above."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "TTRL_CXXFLAGS": options}
    script = "from ttrl_repro.native.library import load; print(load().vector_width())"
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    if native.load().vector_width() >= width:
        assert int(found.stdout) <= width
    tests = [
        f"{__file__}::{name}"
        for name in (
            test_log_probabilities_entropies_and_gradients_are_pytorch_s.__name__,
            test_the_same_tokens_as_in_pytorch.__name__,
        )
    ]
    command = [sys.executable, "-m", "pytest", "-o", "addopts=-q", "-p", "no:cacheprovider", *tests]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout
    assert "skipped" not in result.stdout
