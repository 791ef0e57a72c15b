"""Pretraining of a miniature base from its recipe: one pass over a generated corpus.

The loss counts completion tokens alone: operands of a question are random, so learning to predict
them would spend a small model's capacity on noise.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from ttrl_repro.errors import UserError
from ttrl_repro.miniature.card import CardProtocol, card_of, locked
from ttrl_repro.miniature.corpus import Document, documents
from ttrl_repro.miniature.recipes import Architecture, Optimisation, Recipe
from ttrl_repro.miniature.tokenizer import BOS, EOS, IDS, PAD, VOCABULARY, build_tokenizer
from ttrl_repro.models import bases_folder
from ttrl_repro.native.logprobs import LogProbs
from ttrl_repro.native.support import native_library
from ttrl_repro.progress import Progress
from ttrl_repro.seeds import derive_seed, generator

IGNORE = -100  # label of a position that does not count in the loss


def build_model(architecture: Architecture, seed: int) -> Qwen3ForCausalLM:
    """A freshly initialised model in fp32; the initialisation depends on (architecture, seed) alone."""
    config = Qwen3Config(
        vocab_size=len(VOCABULARY),
        hidden_size=architecture.hidden_size,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.kv_heads,
        head_dim=architecture.head_dim,
        intermediate_size=architecture.intermediate_size,
        max_position_embeddings=architecture.max_positions,
        tie_word_embeddings=True,
        bos_token_id=IDS[BOS],
        eos_token_id=IDS[EOS],
        pad_token_id=IDS[PAD],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initialisation"))
        return Qwen3ForCausalLM(config)


def batches(docs: list[Document], batch_tokens: int, seed: int) -> list[list[int]]:
    """Indices of documents, grouped by length into batches of at most `batch_tokens`, in shuffled order."""
    rng = generator(seed, "batches")
    lengths = np.array([len(d.prompt_ids) + len(d.completion_ids) for d in docs])
    order = np.lexsort((rng.random(len(docs)), lengths))
    out: list[list[int]] = []
    current: list[int] = []
    for i in order:
        # Sorted by length, so the newest document is the longest: it sets the padded width.
        if current and (len(current) + 1) * lengths[i] > batch_tokens:
            out.append(current)
            current = []
        current.append(int(i))
    out.append(current)
    return [out[i] for i in rng.permutation(len(out))]


def collate(docs: list[Document]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, each (B, T), right-padded (a causal model needs no mask for that)."""
    width = max(len(d.prompt_ids) + len(d.completion_ids) for d in docs)
    ids = torch.full((len(docs), width), IDS[PAD])
    labels = torch.full((len(docs), width), IGNORE)
    for row, doc in enumerate(docs):
        start, end = len(doc.prompt_ids), len(doc.prompt_ids) + len(doc.completion_ids)
        ids[row, :end] = torch.tensor(doc.prompt_ids + doc.completion_ids)
        labels[row, start:end] = torch.tensor(doc.completion_ids)
    return ids, labels


def learning_rate_at(update: int, updates: int, plan: Optimisation) -> float:
    """Linear warm-up, then cosine decay to a tenth of the peak."""
    if update < plan.warmup_updates:
        return plan.learning_rate * (update + 1) / plan.warmup_updates
    progress = (update - plan.warmup_updates) / max(1, updates - plan.warmup_updates)
    return plan.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def build_optimizers(model: Qwen3ForCausalLM, plan: Optimisation) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings and norms (Jordan et al. 2024).

    Muon reached in 4 M tokens what AdamW needed 10 M for (docs/lab_notes.md).
    """
    hidden = [p for name, p in model.named_parameters() if p.dim() == 2 and ".layers." in name]
    rest = [p for name, p in model.named_parameters() if p.dim() != 2 or ".layers." not in name]
    return [
        torch.optim.Muon(hidden, lr=plan.learning_rate, weight_decay=plan.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def loss_of(model: Qwen3ForCausalLM, docs: list[Document], native: LogProbs | None) -> torch.Tensor:
    """Mean negative log-probability of the documents' completion tokens.

    In fp32 by the native code; without it, by the model's own forward pass in bf16 autocast.
    """
    if native is not None:
        completions = [doc.completion_ids for doc in docs]
        logprobs, _ = native([doc.prompt_ids for doc in docs], completions, 1.0)
        return -logprobs.sum() / sum(map(len, completions))
    ids, labels = collate(docs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE
    )


def pretrain(recipe: Recipe, seed: int, folder: Path, progress: Progress) -> dict[str, float | int | str | bool]:
    """Train a base and write it to `folder` (bf16 safetensors, tokenizer, `recipe.json`).

    Returns a summary (tokens, seconds, final loss), which is also in `recipe.json`.
    """
    progress.start("writing the corpus", recipe.corpus.tokens, unit="token")
    docs = documents(recipe.corpus, seed, lambda tokens: progress.advance(amount=tokens))
    progress.finish()
    plan = recipe.optimisation
    schedule = batches(docs, plan.batch_tokens, seed)
    model = build_model(recipe.architecture, seed)
    optimizers = build_optimizers(model, plan)
    library = native_library(model)
    native = None if isinstance(library, str) else LogProbs(model, library)
    started, losses = time.perf_counter(), []
    model.train()
    progress.start(f"pretraining {recipe.name}", len(schedule), unit="update")
    for update, rows in enumerate(schedule):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate_at(update, len(schedule), plan)
        loss = loss_of(model, [docs[i] for i in rows], native)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.gradient_clip, foreach=True)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        progress.advance(note=f"loss {losses[-1]:.3f}")
    progress.finish()
    tail = losses[-max(1, len(losses) // 20) :]
    summary: dict[str, float | int | str | bool] = {
        "name": recipe.name,
        "base_seed": seed,
        "parameters": model.num_parameters(),
        "documents": len(docs),
        "tokens": sum(len(d.prompt_ids) + len(d.completion_ids) for d in docs),
        "updates": len(schedule),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "native": native is not None,  # fp32 by the native code, or bf16 autocast
        "final_loss": sum(tail) / len(tail),
        "seconds": round(time.perf_counter() - started, 1),
    }
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    (folder / "recipe.json").write_text(
        json.dumps({"recipe": recipe.model_dump(mode="json"), "summary": summary}, indent=2) + "\n"
    )
    return summary


def make_base(recipe: Recipe, seed: int, target: Path, progress: Progress, present_is_fine: bool = False) -> None:
    """`pretrain` into `target`, which appears when all of it is there; no two processes make it at once.

    Raises UserError if the folder is taken, unless `present_is_fine` and it holds a base.
    """
    with locked(target, progress.say):
        if present_is_fine and (target / "config.json").is_file():
            return
        if target.exists() and any(target.iterdir()):
            raise UserError(f"{target}: is not empty; give another folder with --out")
        partial = target.with_name(f".{target.name}.partial")  # an interrupted base must not look like one
        shutil.rmtree(partial, ignore_errors=True)
        pretrain(recipe, seed, partial, progress)
        if target.exists():
            target.rmdir()
        partial.rename(target)


def pretrain_base(recipe: Recipe, seed: int, folder: Path | None = None, protocol: CardProtocol | None = None) -> Path:
    """Make a base and its card, with progress bars; into `folder`, or where `models` looks for it.

    protocol: the card's (None: the standard one). Raises UserError if the folder is taken.
    """
    target = folder or bases_folder() / f"{recipe.name}-seed{seed}"
    with Progress() as progress:
        make_base(recipe, seed, target, progress)
        card_of(target, protocol or CardProtocol.standard(), progress)
    return target
