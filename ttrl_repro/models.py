"""A model's name -> model and tokenizer: a miniature base, a local path or a hub id."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path

import torch
from peft import AutoPeftModelForCausalLM
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ttrl_repro.errors import UserError
from ttrl_repro.miniature.recipes import recipe_names

ADAPTERS = "adapter_config.json"  # PEFT's, in a folder of adapters


def is_adapters(name: str) -> bool:
    """Whether `name` is a folder of adapters."""
    return (Path(name).expanduser() / ADAPTERS).is_file()


def bases_folder() -> Path:
    """Where `ttrl pretrain` puts bases that are not shipped: $TTRL_BASES, or the user's cache."""
    configured = os.environ.get("TTRL_BASES")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(configured) if configured else cache / "ttrl-repro" / "bases"


def base_path(name: str, seed: int) -> Path:
    """The folder of a miniature base: the shipped one if there is one, else in `bases_folder()`."""
    shipped = Path(str(resources.files("ttrl_repro.miniature") / "weights" / f"{name}-seed{seed}"))
    return shipped if shipped.is_dir() else bases_folder() / f"{name}-seed{seed}"


def locate(name: str, base_seed: int = 0) -> str:
    """What `from_pretrained` takes for `name`.

    Raises UserError for a miniature base that is neither shipped nor pretrained, or for a path without
    a model.
    """
    if name in recipe_names():
        path = base_path(name, base_seed)
        if not (path / "config.json").is_file():
            raise UserError(
                f"model: {name} with seeds.base={base_seed} is not shipped; make it with "
                f"`ttrl pretrain {name} --seed {base_seed}`"
            )
        return str(path)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / ADAPTERS).is_file():
            raise UserError(f"model: {name} has no config.json, so it is not a saved model")
        return str(path)
    # `models/foo` beside an existing folder `models` is a mistyped path, not a hub id.
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or ("/" in name and path.parent.is_dir()):
        raise UserError(f"model: no such folder {name}")
    if "/" not in name:
        known = ", ".join(recipe_names())
        raise UserError(f"model: unknown model {name!r}; known: {known}, a local folder, or a hub id owner/name")
    return name


def load_model(name: str, base_seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, on the GPU if there is one.

    Weights are fp32 everywhere (on a GPU the trainer computes in bf16 autocast): Adam's small steps would
    be lost in bf16 weights. Raises UserError if the model cannot be found or loaded.
    """
    source = locate(name, base_seed)
    try:
        if is_adapters(source):
            # Adapters know their base by the name that it was loaded by; together they are one model again.
            base = json.loads((Path(source) / ADAPTERS).read_text()).get("base_model_name_or_path")
            if isinstance(base, str) and os.path.isabs(base) and not os.path.isdir(base):
                raise UserError(f"model: the base of the adapters in {name}, {base}, is not there; correct {ADAPTERS}")
            adapted = AutoPeftModelForCausalLM.from_pretrained(source, dtype=torch.float32)
            model = adapted.merge_and_unload()
        else:
            model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        # transformers says "offline", "not found", "gated" and "corrupted" in its first sentence.
        reason = " ".join(str(error).split()).partition(". ")[0][:300]
        where = "local folder" if Path(source).is_dir() else "hub model"
        raise UserError(
            f"model: cannot load {where} {name!r} ({reason}); check the name and the connection, or give a local folder"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer
