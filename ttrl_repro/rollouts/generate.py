"""The `transformers` engine: `model.generate` for any causal language model on any device.

Tokens are picked by the same rule and from the same uniform numbers as in the CPU engine: a logits
processor picks the token and leaves it as the only possible one, so that greedy `generate` follows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from ttrl_repro.rollouts.base import Samples, Sampling, pick

ROWS = 256  # rows generated together


class _Picker(LogitsProcessor):
    """Picks each row's token with `pick`, remembering log-probability, entropy and certainty."""

    def __init__(self, uniforms_RT: torch.Tensor, prompt_width: int, sampling: Sampling) -> None:
        self.uniforms_RT, self.prompt_width, self.sampling = uniforms_RT, prompt_width, sampling
        self.logprobs: list[torch.Tensor] = []
        self.entropies: list[torch.Tensor] = []
        self.certainties: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        t = input_ids.shape[1] - self.prompt_width
        token_R, logprob_R, entropy_R, certainty_R = pick(scores, self.uniforms_RT[:, t], self.sampling)
        self.logprobs.append(logprob_R)
        self.entropies.append(entropy_R)
        self.certainties.append(certainty_R)
        return torch.full_like(scores, float("-inf")).scatter_(-1, token_R[:, None], 0.0)


class GenerateEngine:
    """Samples from a live model through `model.generate`, whole questions at a time."""

    name = "transformers"
    full_precision = True
    sees_distributions = True

    def __init__(self, model: PreTrainedModel, eos_ids: list[int], pad_id: int, rows: int = ROWS) -> None:
        self.model, self.eos_ids, self.pad_id, self.rows = model, sorted(eos_ids), pad_id, rows

    @torch.inference_mode()
    def sample(
        self,
        prompts: list[list[int]],
        uniforms_QNT: np.ndarray,
        sampling: Sampling,
        report: Callable[[int], None] = lambda _: None,
    ) -> Samples:
        """See `Engine.sample`."""
        n_questions, n, _ = uniforms_QNT.shape
        if n_questions != len(prompts):
            raise ValueError(f"uniforms of shape {uniforms_QNT.shape} do not fit {len(prompts)} prompts")
        rows = [q for q in range(n_questions) for _ in range(n)]  # the question of every row
        uniforms_RT = torch.from_numpy(uniforms_QNT.reshape(len(rows), -1)).to(self.model.device)
        # Rows of similar prompt length share a batch, which keeps padding small.
        order = sorted(range(len(rows)), key=lambda row: (len(prompts[rows[row]]), row))
        shape = (len(rows), sampling.max_new_tokens)
        tokens_RT = np.zeros(shape, np.int64)
        logprobs_RT, entropies_RT, certainties_RT = (np.zeros(shape, np.float32) for _ in range(3))
        arrays: list[np.ndarray] = [tokens_RT, logprobs_RT, entropies_RT, certainties_RT]
        was_training = self.model.training
        self.model.eval()
        for start in range(0, len(order), self.rows):
            batch = order[start : start + self.rows]
            found = self._generate([prompts[rows[row]] for row in batch], uniforms_RT[batch], sampling)
            width = found[0].shape[1]
            for array, part in zip(arrays, found, strict=True):
                array[batch, :width] = part
            report(len(batch))
        self.model.train(was_training)
        # After its end-of-sequence token a row went on as padding: none of that is part of the sample.
        ends_RT = np.isin(tokens_RT, self.eos_ids)
        finished_R = np.any(ends_RT, axis=1)
        lengths_R = np.where(finished_R, ends_RT.argmax(axis=1) + 1, sampling.max_new_tokens)
        beyond_RT = np.arange(shape[1]) >= lengths_R[:, None]
        for array in arrays:
            array[beyond_RT] = 0
        return Samples.of_rows(n, tokens_RT, lengths_R, finished_R, logprobs_RT, entropies_RT, certainties_RT)

    def _generate(
        self, prompts: list[list[int]], uniforms_RT: torch.Tensor, sampling: Sampling
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, log-probabilities, entropies and certainties of one batch, each (rows, longest completion)."""
        width = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), width), self.pad_id, device=self.model.device)
        mask = torch.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) :] = torch.tensor(prompt, device=self.model.device)
            mask[i, width - len(prompt) :] = 1
        picker = _Picker(uniforms_RT, width, sampling)
        config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=self.eos_ids,
            pad_token_id=self.pad_id,
        )
        # generate() fills what a config leaves open from the model's own, which may carry penalties.
        own, self.model.generation_config = self.model.generation_config, GenerationConfig()
        try:
            # On a GPU the trainer computes in bf16 autocast, and so must the sampler.
            with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.model.device.type == "cuda"):
                output = self.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    generation_config=config,
                    logits_processor=LogitsProcessorList([picker]),
                )
        finally:
            self.model.generation_config = own
        return (
            output[:, width:].cpu().numpy(),
            torch.stack(picker.logprobs, 1).cpu().numpy(),
            torch.stack(picker.entropies, 1).cpu().numpy(),
            torch.stack(picker.certainties, 1).cpu().numpy(),
        )
