"""Pretraining of a base: the project's loop beside a plain loop over transformers' model.

    python -m bench.pretraining [--repeats 5]

mini-s on the first tokens of its corpus, in the recipe's batches. The plain loop is what one would write first: the
model's own loss on padded batches, AdamW, gradient clipping; in fp32, and in bf16 autocast. Rates are of tokens without
padding. The project's optimizer (Muon) takes more time than AdamW and needs fewer tokens (docs/lab_notes.md); the last
contestant is the plain loop with it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer

from bench.harness import RESULTS, Contestant, Run, measure, spread, table, write
from ttrl_repro.miniature.corpus import documents
from ttrl_repro.miniature.pretrain import batches, build_model, build_optimizers, collate, pretrain
from ttrl_repro.miniature.recipes import Recipe, load_recipe
from ttrl_repro.progress import Progress

MODEL, TOKENS = "mini-s", 40_000
OURS = "ttrl pretrain"


def shortened(recipe: Recipe) -> Recipe:
    """The recipe with a corpus of TOKENS."""
    return recipe.model_copy(update={"corpus": recipe.corpus.model_copy(update={"tokens": TOKENS})})


def ours(recipe: Recipe) -> Contestant:
    """The project's pretraining; it tells the seconds of its updates, without the writing of the corpus."""

    def work(_: int) -> Run:
        with tempfile.TemporaryDirectory() as folder, Progress(enabled=False) as progress:
            summary = pretrain(recipe, 0, Path(folder), progress)
        return Run(float(summary["tokens"]), float(summary["seconds"]), {"updates": summary["updates"]})

    return work


def plain(recipe: Recipe, bf16: bool, own: bool = False) -> Contestant:
    """A plain loop on the same batches. `own`: with the project's optimizers instead of AdamW."""
    docs, plan = documents(recipe.corpus, 0), recipe.optimisation
    schedule = [collate([docs[i] for i in rows]) for rows in batches(docs, plan.batch_tokens, 0)]
    tokens = sum(len(doc.prompt_ids) + len(doc.completion_ids) for doc in docs)

    def work(_: int) -> float:
        model = build_model(recipe.architecture, 0).train()
        adam = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        optimizers = build_optimizers(model, plan) if own else [adam]
        for ids, labels in schedule:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                loss = model(input_ids=ids, labels=labels, use_cache=False).loss
            model.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), plan.gradient_clip)
            for optimizer in optimizers:
                optimizer.step()
        return tokens

    return work


def main(
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path, typer.Option(help="folder of the results")] = RESULTS,
) -> None:
    """Measure, print and write the rates."""
    recipe = shortened(load_recipe(MODEL))
    contestants = {
        OURS: ours(recipe),
        "plain loop, fp32": plain(recipe, bf16=False),
        "plain loop, bf16": plain(recipe, bf16=True),
        "plain loop, fp32, own optimizers": plain(recipe, bf16=False, own=True),
    }
    with Progress() as progress:
        measured = measure(contestants, repeats, progress, "pretraining")
    lines = [
        f"pretraining of {MODEL}, {TOKENS:,} tokens, batches of {recipe.optimisation.batch_tokens:,}",
        *table(
            ["", "tokens/s", f"{OURS}: times faster"],
            [
                [name, spread(measured.rates(name), 0), "" if name == OURS else str(measured.faster(OURS, name))]
                for name in contestants
            ],
        ),
    ]
    write("pretraining", lines, {"tokens": TOKENS, "runs": measured.to_json()}, repeats, out)


if __name__ == "__main__":
    typer.run(main)
