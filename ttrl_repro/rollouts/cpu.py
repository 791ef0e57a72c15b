"""The CPU engine: sampling from small Qwen3-architecture models, natively where a compiler is at hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from transformers import PreTrainedModel

from ttrl_repro.native.support import native_library, unsupported
from ttrl_repro.rollouts.base import Samples, Sampling
from ttrl_repro.rollouts.native_decoder import NativeDecoder
from ttrl_repro.rollouts.torch_decoder import TorchDecoder


class CpuEngine:
    """Samples from a live Qwen3 model; its weights are read afresh at every call.

    `slower`: why the native code is not used (None: it is). Raises ValueError for a model that `unsupported`
    names.
    """

    name = "cpu"
    full_precision = True
    sees_distributions = True

    def __init__(self, model: PreTrainedModel, eos_ids: list[int], pad_id: int) -> None:
        reason = unsupported(model)
        if reason:
            raise ValueError(f"the CPU engine cannot run this model: {reason}")
        self.model = model
        library = native_library(model)
        self.slower = library if isinstance(library, str) else None
        self.decoder: NativeDecoder | TorchDecoder = (
            TorchDecoder(model, eos_ids, pad_id) if isinstance(library, str) else NativeDecoder(model, eos_ids, library)
        )

    def sample(
        self,
        prompts: list[list[int]],
        uniforms_QNT: np.ndarray,
        sampling: Sampling,
        report: Callable[[int], None] = lambda _: None,
    ) -> Samples:
        """See `Engine.sample`. Raises ValueError if a prompt is empty or does not fit the model."""
        n_questions, _, width = uniforms_QNT.shape
        if n_questions != len(prompts) or width < sampling.max_new_tokens:
            raise ValueError(f"uniforms of shape {uniforms_QNT.shape} do not fit {len(prompts)} prompts")
        if min(len(prompt) for prompt in prompts) == 0:
            raise ValueError("an empty prompt cannot be continued")
        longest = max(len(prompt) for prompt in prompts) + sampling.max_new_tokens
        if longest > self.model.config.max_position_embeddings:
            raise ValueError(
                f"prompt and completion need {longest} positions, "
                f"the model has {self.model.config.max_position_embeddings}"
            )
        vocabulary = self.model.config.vocab_size
        if any(not 0 <= token < vocabulary for prompt in prompts for token in prompt):
            raise ValueError(f"a prompt has a token outside the vocabulary of {vocabulary}")
        return self.decoder.sample(prompts, uniforms_QNT, sampling, report)
