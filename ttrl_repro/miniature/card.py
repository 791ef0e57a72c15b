"""The model card of a base: its recipe, and what it does on the laboratory's tasks."""

from __future__ import annotations

import json
from pathlib import Path

from ttrl_repro.config import Prompt
from ttrl_repro.evaluate import GREEDY, Protocol, evaluate
from ttrl_repro.models import load_model
from ttrl_repro.prompts import encode_prompts
from ttrl_repro.records import Row
from ttrl_repro.rollouts import make_engine
from ttrl_repro.stats import avg_at_k, maj_at_k, majority_ratio, pass_at_k
from ttrl_repro.summary import codes_by_protocol
from ttrl_repro.tasks import load_task

TASKS = ("mini-30", "mini-83")
TEMPERATURES = (0.3, 0.6, 1.0)
SAMPLES = 64
MAX_NEW_TOKENS = 90

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# {name}, base seed {seed} (provisional)

A Qwen3-architecture transformer of {parameters:,} parameters, trained from scratch on generated
arithmetic: {description}. **Provisional**: one point of the laboratory's family, to be replaced when the
laboratory is frozen. It knows nothing but expressions such as `47+36*7=`.

## What it was trained on
{documents:,} documents, {tokens:,} tokens, {updates:,} updates, once over; final loss {final_loss:.3f} (last
5 % of the updates). No document has a wrong step. Held-out expressions (one in eight) never occur, and
all tasks draw from them. Shares of the corpus:

| dial | value |
|---|---|
| terms | {terms} |
| left-to-right authors, by terms | {misconception} |
| styles | stepwise {stepwise:g}, direct {direct:g}, run-on {run_on:g} |
| operators | {operators} |

## What it does
Draw 0 of each task, {samples} samples, top-p 0.95 below temperature 1, at most {max_new_tokens} new tokens.

| task | T | avg@16 | maj@{samples} | pass@{samples} | majority ratio |
|---|---|---|---|---|---|
{rows}

Made by `ttrl pretrain {name} --seed {seed}`; everything that went in is in `recipe.json`.
"""


def write_card(folder: Path) -> None:
    """Evaluate the base in `folder` and write its README.md."""
    facts = json.loads((folder / "recipe.json").read_text())
    recipe, summary = facts["recipe"], facts["summary"]
    corpus = recipe["corpus"]
    text = CARD.format(
        name=recipe["name"],
        seed=summary["base_seed"],
        description=recipe["description"],
        terms=", ".join(f"{k}: {share:g}" for k, share in corpus["terms"].items()),
        misconception=", ".join(f"{k}: {share:g}" for k, share in corpus["misconception"].items()),
        stepwise=corpus["stepwise"],
        direct=corpus["direct"],
        run_on=corpus["run_on"],
        operators=", ".join(f"{name} {share:g}" for name, share in corpus["operators"].items()),
        samples=SAMPLES,
        max_new_tokens=MAX_NEW_TOKENS,
        rows="\n".join(table_rows(str(folder))),
        **{key: summary[key] for key in ("parameters", "documents", "tokens", "updates", "final_loss")},
    )
    (folder / "README.md").write_text(text)


def table_rows(model: str) -> list[str]:
    """One markdown row per task and temperature (T 0: greedy)."""
    loaded, tokenizer = load_model(model)
    engine = make_engine("auto", loaded, tokenizer)
    out = []
    for name in TASKS:
        task = load_task(name)
        prompts = encode_prompts(task.questions, tokenizer, Prompt())
        protocols = [GREEDY, *(Protocol(t, 1.0 if t == 1 else 0.95, SAMPLES) for t in TEMPERATURES)]
        rows: list[Row] = []
        for protocol in protocols:
            rows += evaluate(engine, tokenizer, task, prompts, protocol, MAX_NEW_TOKENS, seed=0, step=0)
        for (_, _, _, temperature), codes in codes_by_protocol(rows).items():
            if temperature == 0:
                out.append(f"| {name} | greedy | {avg_at_k(codes):.3f} | | | |")
                continue
            out.append(
                f"| {name} | {temperature:g} | {avg_at_k(codes[:, :16]):.3f} | {maj_at_k(codes):.3f} "
                f"| {pass_at_k(codes, SAMPLES):.3f} | {majority_ratio(codes):.3f} |"
            )
    return out
