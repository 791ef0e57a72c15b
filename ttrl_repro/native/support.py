"""Which models the CPU engine and the native code can run."""

from __future__ import annotations

import ctypes

from transformers import PreTrainedModel

from ttrl_repro.native.library import load

MOST_PARAMETERS = 50_000_000  # beyond, fp32 copies of weights and caches cost more than they save
MOST_HEAD_DIM = 1024  # the native code's buffers for one head
HEAD_DIM_STEP = 16  # the widest vector, in floats
WIDTH_STEP = 32  # the widest panel, in floats


def unsupported(model: PreTrainedModel) -> str | None:
    """Why the CPU engine cannot run `model`, or None if it can."""
    config = model.config
    if config.model_type != "qwen3":
        return f"architecture {config.model_type!r} is not 'qwen3'"
    if model.device.type != "cpu":
        return f"the model is on {model.device}, not on the CPU"
    if config.attention_bias:
        return "attention_bias is set"
    if config.rope_parameters.get("rope_type", "default") != "default":
        return f"rope_type {config.rope_parameters['rope_type']!r} is not 'default'"
    if any(kind != "full_attention" for kind in config.layer_types):
        return "sliding-window attention is set"
    if config.hidden_act != "silu":
        return f"hidden_act {config.hidden_act!r} is not 'silu'"
    if model.num_parameters() > MOST_PARAMETERS:
        return f"{model.num_parameters():,} parameters are more than the {MOST_PARAMETERS:,} it is made for"
    return None


def native_library(model: PreTrainedModel) -> ctypes.CDLL | str:
    """The native code, if it can run `model` on this machine; else why not."""
    reason = unsupported(model)
    if reason:
        return reason
    config = model.config
    if config.head_dim % HEAD_DIM_STEP or config.head_dim > MOST_HEAD_DIM:
        return f"head_dim {config.head_dim} is not a multiple of {HEAD_DIM_STEP} up to {MOST_HEAD_DIM}"
    if config.attention_dropout:
        return "attention_dropout is set"
    if config.num_attention_heads * config.head_dim % WIDTH_STEP:
        return f"heads x head_dim is not a multiple of {WIDTH_STEP}"
    return load()
