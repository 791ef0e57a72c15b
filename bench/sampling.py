"""Sampling: the CPU engine beside its version without native code, `model.generate` and vLLM.

    python -m bench.sampling [--repeats 5]

30 questions x 64 samples of mini-s and of mini-xs. `model.generate` gets the best of several batch sizes, found in
the same run; vLLM runs in its own environment (`make vllm-env`), with its weights in float32 and in bfloat16.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.harness import RESULTS, ROOT, Contestant, measure, spread, table, write
from bench.peers import Generate, best_rows
from bench.worker import Worker
from ttrl_repro.config import Prompt
from ttrl_repro.models import load_model, locate
from ttrl_repro.progress import Progress
from ttrl_repro.prompts import encode_prompts
from ttrl_repro.rollouts import Sampling, end_of_sequence_ids, uniforms
from ttrl_repro.rollouts.cpu import CpuEngine
from ttrl_repro.rollouts.torch_decoder import TorchDecoder
from ttrl_repro.tasks import load_task

MODELS, TASK = ("mini-s", "mini-xs"), "mini-30"
VOTES, MAX_NEW_TOKENS = 64, 90
BATCHES = (480, 960, 1920)
VLLM = ROOT / ".venv-vllm" / "bin" / "python"
OURS, WITHOUT, GENERATE = "CPU engine", "without native code", "model.generate"


def main(
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    models: Annotated[list[str] | None, typer.Option("--model", help="which models (default: both)")] = None,
    out: Annotated[Path, typer.Option(help="folder of the results")] = RESULTS,
) -> None:
    """Measure, print and write the rates."""
    lines: list[str] = []
    data: dict[str, Any] = {}
    for name in models or MODELS:
        with ExitStack() as stack:
            block, data[name] = one_model(name, repeats, stack)
            lines += [*([""] if lines else []), *block]
    write("sampling", lines, data, repeats, out)


def one_model(name: str, repeats: int, stack: ExitStack) -> tuple[list[str], dict[str, Any]]:
    """The lines and the numbers of one model."""
    model, tokenizer = load_model(name)
    prompts = encode_prompts(load_task(TASK).questions, tokenizer, Prompt())
    listed, eos = list(prompts.values()), end_of_sequence_ids(model, tokenizer)
    pad = int(tokenizer.pad_token_id)
    engine, decoder = CpuEngine(model, eos, pad), TorchDecoder(model, eos, pad)
    sampling = Sampling(1.0, 1.0, MAX_NEW_TOKENS)
    progress = stack.enter_context(Progress())

    def noise(repeat: int) -> Any:
        return uniforms(repeat + 1, list(prompts), VOTES, MAX_NEW_TOKENS)

    def generate(rows: int) -> Generate:
        return Generate(model, listed, VOTES, eos, pad, MAX_NEW_TOKENS, rows=rows)

    contestants: dict[str, Contestant] = {}
    if engine.slower is None:
        contestants[OURS] = lambda repeat: engine.sample(listed, noise(repeat), sampling).n_tokens
    contestants[WITHOUT] = lambda repeat: decoder.sample(listed, noise(repeat), sampling, lambda _: None).n_tokens
    best = generate(best_rows(BATCHES, generate, progress))
    contestants[GENERATE] = lambda _: best.tokens()
    notes = [f"{GENERATE} at its best batch of {', '.join(map(str, BATCHES))} rows: {best.rows}"]
    if engine.slower is not None:
        notes.append(f"no native code here: {engine.slower}")
    if VLLM.is_file():
        for dtype in ("float32", "bfloat16"):
            worker = Worker(
                [str(VLLM), "-P", "bench/vllm_worker.py", locate(name), "--dtype", dtype],
                {"votes": VOTES, "max_new_tokens": MAX_NEW_TOKENS},
                amount="tokens",
                opening={"prompts": listed, "eos": eos},
            )
            contestants[f"vLLM, {dtype}"] = stack.enter_context(worker)
        notes.append(f"vLLM {worker.opened['vllm']}")
    else:
        notes.append("vLLM was left out: there is no .venv-vllm (make vllm-env)")
    measured = measure(contestants, repeats, progress, f"sampling with {name}")
    first = next(iter(contestants))
    rows = [
        [
            peer,
            spread(measured.rates(peer), 0),
            "" if peer == first else str(measured.faster(first, peer)),
        ]
        for peer in contestants
    ]
    lines = [
        f"{name}, {len(listed)} questions x {VOTES} samples, at most {MAX_NEW_TOKENS} tokens",
        *table(["", "tokens/s", f"{first}: times faster"], rows),
        *notes,
    ]
    ratios = {peer: vars(measured.faster(first, peer)) for peer in contestants if peer != first}
    return lines, {"generate_rows": best.rows, "runs": measured.to_json(), f"{first}, times faster": ratios}


if __name__ == "__main__":
    typer.run(main)
