"""The `vllm` engine: vLLM in the training process (colocate) or behind a server, on GPUs or a CPU.

What `Samples` holds, and how it differs from the other engines' (engines.md in docs/ has the whole table):

* Tokens: vLLM draws them with its own generator, seeded per sample from that sample's first uniform number. They
  are a function of (seed, question, sample) up to rounding, which depends on what else shares a batch, but they
  are not the tokens that the other engines draw from the same numbers.
* Log-probabilities: under the sampling temperature (greedy: 1). For top_p < 1 vLLM gives those of the nucleus,
  renormalised, from which the ones before top_p cannot be told; then all log-probabilities and entropies are NaN.
* Entropies: vLLM gives no distributions, so this is -log p of the sampled token, whose mean over samples is an
  unbiased estimate of the entropy. Of greedy tokens it is the same -log p, and no estimate of anything.
"""

from __future__ import annotations

import io
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from packaging.version import Version
from safetensors.torch import save_file
from transformers import PreTrainedModel

from ttrl_repro.adapters import weights_of
from ttrl_repro.config import Vllm
from ttrl_repro.errors import UserError
from ttrl_repro.processes import processes
from ttrl_repro.rollouts.base import Samples, Sampling

OLDEST, TOO_NEW = Version("0.31"), Version("0.32")  # what is tested here, and the newest that TRL 1.16 supports
HOTTEST = 2.0  # the temperature that vLLM takes
CONNECTIONS = 256  # requests that a server gets at a time
CPU_BLOCK = 32  # tokens per cache block on a CPU: only whole blocks of a prompt are shared, and vLLM's default is 128
# vLLM sets these for processes that it starts; ours must not inherit them.
FOR_CHILDREN = ("LD_PRELOAD", "LD_LIBRARY_PATH", "LOCAL_WORLD_SIZE")

Weights = dict[str, torch.Tensor]
Completion = tuple[Sequence[int], Sequence[float]]  # token ids and their log-probabilities


class _Backend(Protocol):
    """Where vLLM runs. `full_precision`: whether it computes in fp32."""

    full_precision: bool

    def load(self, model: PreTrainedModel) -> None:
        """Take over the model's weights, and forget what was cached of older ones."""

    def generate(
        self, prompts: list[list[int]], settings: list[dict[str, Any]], report: Callable[[int], None]
    ) -> list[Completion]:
        """One completion per prompt; `settings` are `SamplingParams` by name."""


class VllmEngine:
    """Samples from a copy of the live model's weights, brought up to date before sampling if they have changed.

    Raises UserError if vLLM is not installed, cannot run the model, or its server does not answer as it must.
    """

    name = "vllm"
    sees_distributions = False

    def __init__(self, model: PreTrainedModel, eos_ids: list[int], settings: Vllm) -> None:
        _require_vllm()
        self.model, self.eos_ids = model, sorted(eos_ids)
        self.backend: _Backend = _Server(model, settings) if settings.mode == "server" else _Colocated(model, settings)
        self.full_precision = self.backend.full_precision
        self._loaded: tuple[int, ...] | None = None  # fingerprint of the weights that vLLM has

    def sample(
        self,
        prompts: list[list[int]],
        uniforms_QNT: np.ndarray,
        sampling: Sampling,
        report: Callable[[int], None] = lambda _: None,
    ) -> Samples:
        """See `Engine.sample`, and this module's docstring for what the log-probabilities and entropies are."""
        n_questions, n, _ = uniforms_QNT.shape
        if n_questions != len(prompts):
            raise ValueError(f"uniforms of shape {uniforms_QNT.shape} do not fit {len(prompts)} prompts")
        if sampling.temperature > HOTTEST:
            raise ValueError(f"vLLM samples at a temperature of at most {HOTTEST}, not {sampling.temperature}")
        if any(not prompt for prompt in prompts):
            raise ValueError("empty prompt: there is nothing to condition the first token on")
        current = fingerprint(self.model)
        if current != self._loaded:
            self._loaded = None  # an interrupted load leaves a mixture
            self.backend.load(self.model)
            self._loaded = current
        settings = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p if sampling.temperature > 0 else 1.0,
            "max_tokens": sampling.max_new_tokens,
            "stop_token_ids": self.eos_ids,
            "logprobs": 0,  # of the sampled token alone
        }
        # A question's requests follow each other, so that all but the first find its prompt in the cache.
        rows = [(q, seed_of(uniforms_QNT[q, i, 0])) for q in range(n_questions) for i in range(n)]
        with _same_random_numbers(self.model.device):
            completions = self.backend.generate(
                [prompts[q] for q, _ in rows], [{**settings, "seed": seed} for _, seed in rows], report
            )
        shape = (len(rows), sampling.max_new_tokens)
        tokens_RT, logprobs_RT = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        lengths_R, finished_R = np.zeros(len(rows), np.int64), np.zeros(len(rows), bool)
        for row, (ids, logprobs) in enumerate(completions):
            tokens_RT[row, : len(ids)], logprobs_RT[row, : len(ids)] = ids, logprobs
            lengths_R[row], finished_R[row] = len(ids), ids[-1] in self.eos_ids
        if sampling.temperature > 0 and sampling.top_p < 1:
            logprobs_RT[np.arange(shape[1]) < lengths_R[:, None]] = np.nan
        return Samples.of_rows(n, tokens_RT, lengths_R, finished_R, logprobs_RT, -logprobs_RT)


def seed_of(uniform: float) -> int:
    """The seed of a sample: all 53 bits of its first uniform number (a CPU generator takes the lower 32)."""
    return int(uniform * 2**53)


def fingerprint(model: PreTrainedModel) -> tuple[int, ...]:
    """Numbers that change with the model's weights.

    PyTorch counts in-place changes of a tensor, but not those made through `.data` or by another library: the
    hash sees these. It cannot see signs that flip in pairs: the count does.
    """
    tensors = list(model.state_dict(keep_vars=True).values())
    hashes = torch.stack([torch.hash_tensor(tensor.detach()) for tensor in tensors]).tolist()
    return (*hashes, *(tensor._version for tensor in tensors), *(tensor.data_ptr() for tensor in tensors))


def _require_vllm() -> None:
    if find_spec("vllm") is None:
        raise UserError(
            "rollout.engine: 'vllm' needs vLLM, which is not installed; on a GPU: `pip install 'ttrl-repro[vllm]'`; "
            "on a CPU: `make vllm-env`, and run that environment's `ttrl`"
        )
    distributions = [name for name in metadata.packages_distributions().get("vllm", []) if name.startswith("vllm")]
    version = Version(metadata.version(distributions[0] if distributions else "vllm"))
    if not OLDEST <= Version(version.base_version) < TOO_NEW:
        raise UserError(f"rollout.engine: 'vllm' needs vLLM {OLDEST} or later and below {TOO_NEW}, not {version}")


@contextmanager
def _same_random_numbers(device: torch.device) -> Iterator[None]:
    """Leave every global random generator as it was: the trainer's numbers must not depend on the engine."""
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Undo what starting vLLM does to its process: seeding, threads, and variables that child processes inherit."""
    environment = {name: os.environ.get(name) for name in FOR_CHILDREN}
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    with _same_random_numbers(device):
        try:
            yield
        finally:
            torch.set_num_threads = set_threads  # on a CPU vLLM replaces it by a function that does nothing
            torch.set_num_threads(threads)
            for name, value in environment.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


class _Colocated:
    """vLLM in this process, one per training process, each on its process's own device.

    vLLM keeps global state, so a process has one at a time: the next closes the last, which would otherwise tear
    down the next one's state when it is garbage-collected.
    """

    last: ClassVar[_Colocated | None] = None

    def __init__(self, model: PreTrainedModel, settings: Vllm) -> None:
        on_cpu = model.device.type == "cpu"
        dtype = settings.dtype if settings.dtype != "auto" else "float32" if on_cpu else "bfloat16"
        self.full_precision = dtype == "float32"
        # In one process weights are handed over as they are. vLLM reads these when it is imported or started.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        # Binding threads to cores would bind the trainer's too.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        options: dict[str, Any] = {
            "model": model.name_or_path,
            "dtype": dtype,
            "max_model_len": settings.max_model_len,
            "max_num_seqs": settings.max_num_seqs,
            "max_num_batched_tokens": 4096,  # as in TRL: vLLM's memory profiler is misled by its own high default
            "logprobs_mode": "processed_logprobs",
            "enable_prefix_caching": True,
            "skip_tokenizer_init": True,  # token ids in, token ids out
            "seed": 0,
        }
        if on_cpu:
            cache = int(settings.cpu_cache_gib * 2**30)
            options |= {"kv_cache_memory_bytes": cache, "block_size": CPU_BLOCK, "enforce_eager": True}
        else:
            options["gpu_memory_utilization"] = settings.gpu_memory_utilization
        if processes().num_processes > 1:
            options["distributed_executor_backend"] = "external_launcher"
        if _Colocated.last is not None:
            _Colocated.last.close()
        with _undisturbed(model.device):
            from vllm import LLM

            try:
                self.llm = LLM(**options)
            except ValueError as error:
                reason = " ".join(str(error).split())[:400]
                raise UserError(f"rollout.engine: 'vllm' cannot run {model.name_or_path} ({reason})") from error
        _Colocated.last = self

    def close(self) -> None:
        """Give back memory and vLLM's global state; the engine cannot be used any more."""
        _Colocated.last = None
        self.llm.llm_engine.engine_core.shutdown()
        self.llm = None

    def load(self, model: PreTrainedModel) -> None:
        # `load_weights` of a CPU's packed linear layers fails; a reload unpacks and repacks. The state dict has tied
        # tensors under both their names, and must: where vLLM keeps two copies, both have to change.
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": list(weights_of(model).items())})
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache, which holds states of older weights")

    def generate(
        self, prompts: list[list[int]], settings: list[dict[str, Any]], report: Callable[[int], None]
    ) -> list[Completion]:
        from tqdm import tqdm
        from vllm import SamplingParams

        class Bar(tqdm):  # vLLM tells of finished requests through a progress bar only
            monitor_interval = 0

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **{**kwargs, "file": io.StringIO()})

            def update(self, n: float | None = 1) -> bool | None:
                report(int(n or 0))
                return super().update(n)

        outputs = self.llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            [SamplingParams(**one, detokenize=False) for one in settings],
            use_tqdm=Bar,
        )
        found = [output.outputs[0] for output in outputs]
        return [
            (one.token_ids, [entry[token].logprob for token, entry in zip(one.token_ids, one.logprobs, strict=True)])
            for one in found
        ]


class _Server:
    """A `vllm serve`, through TRL's client. New weights travel over NCCL, or from a CPU as a file.

    The server must be started in dev mode and return processed log-probabilities (docs/engines.md has the command).
    """

    def __init__(self, model: PreTrainedModel, settings: Vllm) -> None:
        if processes().num_processes > 1:
            raise UserError("rollout.vllm.mode: 'server' works with one training process; use 'colocate'")
        import requests
        from trl.generation.vllm_client import VLLMClient

        where = f"rollout.vllm: the server at {settings.server_host}:{settings.server_port}"
        try:
            self.client = VLLMClient(
                host=settings.server_host, server_port=settings.server_port, connection_timeout=settings.server_timeout
            )
            found = self.client.get_server_info()["model_config"]
            if model.device.type == "cuda":
                self.client.init_communicator(model.device)
        except (ConnectionError, requests.exceptions.RequestException) as error:
            raise UserError(f"{where} does not answer; start one with `vllm serve` (see docs/engines.md)") from error
        except RuntimeError as error:  # what TRL finds missing in the server's flags
            raise UserError(f"{where} cannot take weights ({' '.join(str(error).split())})") from error
        if "processed_logprobs" not in found["logprobs_mode"]:
            raise UserError(f"{where} must be started with --logprobs-mode processed_logprobs")
        self.full_precision = "float32" in found["dtype"]
        retries = self.client.session.get_adapter(self.client.base_url).max_retries
        self.client.session.mount(
            "http://", requests.adapters.HTTPAdapter(max_retries=retries, pool_maxsize=CONNECTIONS)
        )

    def load(self, model: PreTrainedModel) -> None:
        if model.device.type == "cuda":
            for name, tensor in weights_of(model).items():
                self.client.update_named_param(name, tensor)
        else:
            # NCCL needs a GPU on both sides; without one the server is on this machine and can read our files.
            with tempfile.TemporaryDirectory(prefix="ttrl-weights-") as folder:
                # Tied tensors under both their names, as in `_Colocated.load`, each with memory of its own in a file.
                save_file(
                    {name: tensor.clone() for name, tensor in weights_of(model).items()},
                    Path(folder) / "model.safetensors",
                )
                self._post("collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": folder}})
        if not self._post("reset_prefix_cache", {})["success"]:
            raise RuntimeError("vLLM did not reset its prefix cache, which holds states of older weights")

    def _post(self, path: str, content: dict[str, Any]) -> Any:
        response = self.client.session.post(f"{self.client.base_url}/{path}", json=content)
        response.raise_for_status()
        return response.json()

    def generate(
        self, prompts: list[list[int]], settings: list[dict[str, Any]], report: Callable[[int], None]
    ) -> list[Completion]:
        # One HTTP request per sample: the seed is a request's.
        def ask(row: int) -> Completion:
            one = dict(settings[row])
            extra = {"seed": one.pop("seed"), "stop_token_ids": one.pop("stop_token_ids")}
            answer = self.client.generate([prompts[row]], n=1, generation_kwargs=extra, **one)
            return answer["completion_ids"][0], [position[0] for position in answer["logprobs"][0]]

        with ThreadPoolExecutor(max_workers=min(CONNECTIONS, len(prompts))) as executor:
            futures = [executor.submit(ask, row) for row in range(len(prompts))]
            for future in as_completed(futures):
                future.result()  # an error of one request ends the call
                report(1)
        return [future.result() for future in futures]
