"""Sampling speed of the CPU engine beside `model.generate`, alternating in one run.

    python bench/sampling.py [--model mini-s] [--repeats 5]

Same model, questions, N and seeds; each engine gets the batch that suits it best (the CPU engine its
default, `model.generate` the best of several). Writes bench/results/sampling.json and .txt.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import typer
from transformers import GenerationConfig, PreTrainedModel

from ttrl_repro.config import Prompt
from ttrl_repro.models import load_model
from ttrl_repro.progress import Progress
from ttrl_repro.prompts import encode_prompts
from ttrl_repro.records import environment
from ttrl_repro.rollouts import Sampling, end_of_sequence_ids, make_engine, uniforms
from ttrl_repro.tasks import load_task

RESULTS = Path(__file__).resolve().parent / "results"
VOTES, MAX_NEW_TOKENS = 64, 90
BATCHES = (240, 480, 960, 1920)  # rows of model.generate, of which the best is its peer


def generate(model: PreTrainedModel, prompts: list[list[int]], eos: list[int], pad: int, rows: int) -> int:
    """Stock `model.generate` sampling of VOTES completions a prompt, `rows` at once; returns the tokens sampled."""
    flat = sorted((prompt for prompt in prompts for _ in range(VOTES)), key=len)
    config = GenerationConfig(
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    tokens = 0
    for start in range(0, len(flat), rows):
        batch = flat[start : start + rows]
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        with torch.inference_mode():
            new = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:]
        ended = torch.isin(new, torch.tensor(eos))
        first = torch.where(ended.any(1), ended.int().argmax(1) + 1, new.shape[1])
        tokens += int(first.sum())
    return tokens


def main(
    model: Annotated[str, typer.Option(help="which model")] = "mini-s",
    task: Annotated[str, typer.Option(help="which questions")] = "mini-30",
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path, typer.Option()] = RESULTS / "sampling.json",
) -> None:
    """Measure, print and write the rates."""
    loaded, tokenizer = load_model(model)
    engine = make_engine("cpu", loaded, tokenizer)
    prompts = encode_prompts(load_task(task).questions, tokenizer, Prompt())
    eos = end_of_sequence_ids(loaded, tokenizer)
    listed = list(prompts.values())

    def ours(repeat: int) -> int:
        noise = uniforms(repeat, list(prompts), VOTES, MAX_NEW_TOKENS)
        return engine.sample(listed, noise, Sampling(1.0, 1.0, MAX_NEW_TOKENS)).n_tokens

    def rate(work) -> float:  # type: ignore[no-untyped-def]
        started = time.perf_counter()
        tokens = work()
        return tokens / (time.perf_counter() - started)

    rates: dict[str, list[float]] = {"cpu engine": [], "model.generate": []}
    with Progress() as progress:
        # The peer's best batch size, found before the measurement.
        progress.start("best batch of model.generate", len(BATCHES), unit="batch")
        sizes = {}
        for rows in BATCHES:
            sizes[rows] = rate(lambda rows=rows: generate(loaded, listed, eos, 0, rows))
            progress.advance()
        progress.finish()
        best = max(sizes, key=sizes.__getitem__)
        ours(0)
        progress.start("sampling", repeats, unit="repeat")
        for repeat in range(repeats):
            rates["cpu engine"].append(rate(lambda repeat=repeat: ours(repeat)))
            rates["model.generate"].append(rate(lambda: generate(loaded, listed, eos, 0, best)))
            progress.advance()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratio = medians["cpu engine"] / medians["model.generate"]
    lines = [f"{model}, {len(listed)} questions x {VOTES} samples, {torch.get_num_threads()} threads, tokens/s"]
    lines += [
        f"  {name:15} median {medians[name]:8,.0f}   range {min(values):8,.0f} to {max(values):8,.0f}"
        for name, values in rates.items()
    ]
    lines.append(f"  ratio {ratio:.2f} ({repeats} alternating repeats; model.generate at its best batch, {best} rows)")
    print("\n".join(lines))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        json.dumps(
            {
                "model": model,
                "task": task,
                "votes": VOTES,
                "repeats": repeats,
                "threads": torch.get_num_threads(),
                "generate_rows": best,
                "tokens_per_second": rates,
                "medians": medians,
                "ratio": ratio,
                "environment": environment(),
            },
            indent=2,
        )
        + "\n"
    )
    out.with_suffix(".txt").write_text("\n".join(lines) + "\n")
    print(f"results: {out}")


if __name__ == "__main__":
    typer.run(main)
