"""Sampling engines behind one interface (`Engine`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttrl_repro.config import Vllm
from ttrl_repro.errors import UserError
from ttrl_repro.rollouts.base import Engine, Samples, Sampling, uniforms
from ttrl_repro.rollouts.until_decided import sample_until_decided

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ENGINES = ("auto", "cpu", "transformers", "vllm")

__all__ = ["ENGINES", "Engine", "Samples", "Sampling", "make_engine", "sample_until_decided", "uniforms"]


def make_engine(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vllm: Vllm | None = None
) -> Engine:
    """The engine called `name`; `auto` takes the CPU engine where it can run the model. `vllm`: that engine's settings.

    Raises UserError if the engine cannot run the model, or if vLLM is missing.
    """
    from ttrl_repro.native.support import unsupported
    from ttrl_repro.rollouts.cpu import CpuEngine
    from ttrl_repro.rollouts.generate import GenerateEngine

    eos_ids = end_of_sequence_ids(model, tokenizer)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos_ids[0]
    if name == "vllm":
        from ttrl_repro.rollouts.vllm import VllmEngine

        return VllmEngine(model, eos_ids, vllm or Vllm())
    reason = unsupported(model)
    if name == "cpu" and reason:
        raise UserError(f"rollout.engine: 'cpu' cannot run this model ({reason}); use 'transformers' or 'auto'")
    if name == "cpu" or (name == "auto" and not reason):
        return CpuEngine(model, eos_ids, pad_id)
    if name in ("auto", "transformers"):
        return GenerateEngine(model, eos_ids, pad_id)
    raise UserError(f"rollout.engine: unknown engine {name!r}; known: {', '.join(ENGINES)}")


def end_of_sequence_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token id that ends a completion: the tokenizer's and the generation config's.

    Raises UserError if there is none.
    """
    ids: set[int] = set()
    if tokenizer.eos_token_id is not None:
        ids.add(int(tokenizer.eos_token_id))
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids |= set(configured if isinstance(configured, list) else [configured] if configured is not None else [])
    if not ids:
        raise UserError("model: neither tokenizer nor generation config names an end-of-sequence token")
    return sorted(ids)
