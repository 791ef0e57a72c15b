"""The CPU engine where the native code cannot be compiled: the same sampler in PyTorch.

Against `model.generate` it saves: the prompt is run once per question, not once per sample; rows that
have ended leave the batch; norm weights are folded into the next matrix; q, k, v and gate, up are one
product each; the key/value cache is allocated once per batch instead of growing at every token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ttrl_repro.adapters import weights_of
from ttrl_repro.rollouts.base import Samples, Sampling, pick

CACHE_BYTES = 512 * 2**20  # of keys and values: as many rows are decoded together as fit in it
COMPACT_BELOW = 0.85  # finished rows are dropped once fewer than this share of the batch is alive


@dataclass
class _Layer:
    """Weights of one block, norm weights folded in, stored (in, out) for `x @ w`."""

    qkv: torch.Tensor
    q_norm: torch.Tensor
    k_norm: torch.Tensor
    out: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class TorchDecoder:
    """Samples from a live Qwen3 model that `native.support` does not refuse; its weights are read at every call."""

    def __init__(self, model: PreTrainedModel, eos_ids: list[int], pad_id: int, cache_bytes: int = CACHE_BYTES) -> None:
        self.model, self.cache_bytes, self.pad_id = model, cache_bytes, pad_id
        self.eos = torch.tensor(sorted(eos_ids))
        config = model.config
        self.heads, self.kv_heads, self.dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self.eps = config.rms_norm_eps
        theta = config.rope_parameters["rope_theta"]
        self.inverse_frequency = 1.0 / theta ** (torch.arange(0, self.dim, 2).float() / self.dim)

    # -- weights ---------------------------------------------------------------------------------

    def _pack(self) -> None:
        """Read the model's weights, folding each norm's weight into the matrix behind it."""
        weights = {name: tensor.float() for name, tensor in weights_of(self.model).items()}
        self.embedding = weights["model.embed_tokens.weight"]
        self.layers: list[_Layer] = []
        for i in range(self.model.config.num_hidden_layers):
            at = f"model.layers.{i}."
            attention_norm = weights[f"{at}input_layernorm.weight"]
            mlp_norm = weights[f"{at}post_attention_layernorm.weight"]
            qkv = torch.cat([weights[f"{at}self_attn.{x}_proj.weight"] for x in "qkv"])
            gate_up = torch.cat([weights[f"{at}mlp.{x}_proj.weight"] for x in ("gate", "up")])
            self.layers.append(
                _Layer(
                    qkv=(qkv * attention_norm).T.contiguous(),
                    # The softmax scale 1/sqrt(d) goes into the query norm.
                    q_norm=weights[f"{at}self_attn.q_norm.weight"] * self.dim**-0.5,
                    k_norm=weights[f"{at}self_attn.k_norm.weight"],
                    out=weights[f"{at}self_attn.o_proj.weight"].T.contiguous(),
                    gate_up=(gate_up * mlp_norm).T.contiguous(),
                    down=weights[f"{at}mlp.down_proj.weight"].T.contiguous(),
                )
            )
        self.head = (weights["lm_head.weight"] * weights["model.norm.weight"]).T.contiguous()

    # -- forward ---------------------------------------------------------------------------------

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)

    def _rope(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin for integer positions (...), each (..., 1, D): the 1 broadcasts over heads."""
        angle = positions.float()[..., None] * self.inverse_frequency
        angle = torch.cat([angle, angle], -1)[..., None, :]
        return angle.cos(), angle.sin()

    @staticmethod
    def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def _project(
        self, layer: _Layer, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of x (..., H), each (..., heads, D), normed and rotated."""
        qkv = self._normed(x) @ layer.qkv
        qkv = qkv.unflatten(-1, (self.heads + 2 * self.kv_heads, self.dim))
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=-2)
        q = self._rotated(self._normed(q) * layer.q_norm, cos, sin)
        k = self._rotated(self._normed(k) * layer.k_norm, cos, sin)
        return q, k, v

    def _mlp(self, layer: _Layer, x: torch.Tensor) -> torch.Tensor:
        gate, up = (self._normed(x) @ layer.gate_up).chunk(2, -1)
        return (F.silu(gate) * up) @ layer.down

    def _prefill(
        self, ids_QP: torch.Tensor, real_QP: torch.Tensor
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Logits after each prompt (Q, V), and per layer its keys and values (Q, kv heads, P, D)."""
        positions_QP = (real_QP.cumsum(-1) - 1).clamp(min=0)
        cos, sin = self._rope(positions_QP)
        width = ids_QP.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool).tril()
        # A padding position may look at itself: its row is never read, but must not be NaN.
        mask = (causal & real_QP[:, None, :].bool() | torch.eye(width, dtype=torch.bool))[:, None]
        x, cache = self.embedding[ids_QP], []
        for layer in self.layers:
            q, k, v = (t.transpose(1, 2) for t in self._project(layer, x, cos, sin))
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0, enable_gqa=True)
            x = x + attended.transpose(1, 2).flatten(-2) @ layer.out
            x = x + self._mlp(layer, x)
            cache.append((k, v))
        return self._normed(x[:, -1]) @ self.head, cache

    def _decode(
        self,
        token_R: torch.Tensor,
        position_R: torch.Tensor,
        slot: int,
        cache: list[tuple[torch.Tensor, torch.Tensor]],
        bias_R11S: torch.Tensor | None,
    ) -> torch.Tensor:
        """Logits (R, V) after one more token per row, whose keys and values go to `slot`."""
        cos, sin = self._rope(position_R)
        rows = token_R.shape[0]
        x = self.embedding[token_R]
        bias = None if bias_R11S is None else bias_R11S[..., : slot + 1]
        for layer, (keys, values) in zip(self.layers, cache, strict=True):
            q, k, v = self._project(layer, x, cos, sin)
            keys[:rows, :, slot] = k
            values[:rows, :, slot] = v
            attended = F.scaled_dot_product_attention(
                q[:, :, None],
                keys[:rows, :, : slot + 1],
                values[:rows, :, : slot + 1],
                attn_mask=bias,
                scale=1.0,
                enable_gqa=True,
            )
            x = x + attended.flatten(1) @ layer.out
            x = x + self._mlp(layer, x)
        return self._normed(x) @ self.head

    # -- sampling --------------------------------------------------------------------------------

    @torch.inference_mode()
    def sample(
        self,
        prompts: list[list[int]],
        uniforms_QNT: np.ndarray,
        sampling: Sampling,
        report: Callable[[int], None],
    ) -> Samples:
        """See `Engine.sample`."""
        n_questions, n, _ = uniforms_QNT.shape
        longest = max(len(prompt) for prompt in prompts) + sampling.max_new_tokens
        self._pack()
        shape = (n_questions * n, sampling.max_new_tokens)
        tokens_RT = np.zeros(shape, np.int64)
        logprobs_RT, entropies_RT, certainties_RT = (np.zeros(shape, np.float32) for _ in range(3))
        lengths_R, finished_R = np.zeros(shape[0], np.int64), np.zeros(shape[0], bool)
        uniforms_RT = uniforms_QNT.reshape(shape[0], -1)
        # Questions of similar prompt length share a batch, which keeps padding small.
        order = sorted(range(n_questions), key=lambda q: (len(prompts[q]), q))
        rows = [q * n + i for q in order for i in range(n)]
        bytes_per_row = longest * self.kv_heads * self.dim * 4 * 2 * len(self.layers)
        size = max(1, self.cache_bytes // bytes_per_row)
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            found = self._sample_batch([prompts[row // n] for row in batch], uniforms_RT[batch], sampling)
            whole = (tokens_RT, logprobs_RT, entropies_RT, certainties_RT, lengths_R, finished_R)
            for array, part in zip(whole, found, strict=True):
                array[batch] = part.numpy()
            report(len(batch))
        return Samples.of_rows(n, tokens_RT, lengths_R, finished_R, logprobs_RT, entropies_RT, certainties_RT)

    def _sample_batch(
        self, prompts: list[list[int]], uniforms: np.ndarray, sampling: Sampling
    ) -> tuple[torch.Tensor, ...]:
        """Tokens, log-probabilities, entropies, certainties (R, T), lengths and finished (R,), a prompt per row."""
        limit = sampling.max_new_tokens
        # Equal neighbours are samples of one question: their prompt is run once.
        distinct = [prompt for i, prompt in enumerate(prompts) if i == 0 or prompt != prompts[i - 1]]
        starts = [int(i > 0 and prompt != prompts[i - 1]) for i, prompt in enumerate(prompts)]
        question_R = torch.tensor(starts).cumsum(0)
        width = max(len(prompt) for prompt in distinct)
        ids_QP = torch.full((len(distinct), width), self.pad_id)
        real_QP = torch.zeros((len(distinct), width), dtype=torch.int64)
        for q, prompt in enumerate(distinct):
            ids_QP[q, width - len(prompt) :] = torch.tensor(prompt)
            real_QP[q, width - len(prompt) :] = 1
        logits_QV, prompt_cache = self._prefill(ids_QP, real_QP)

        rows, slots = len(prompts), width + limit
        cache = []
        for keys, values in prompt_cache:
            shape = (rows, self.kv_heads, slots, self.dim)
            pair = torch.empty(shape), torch.empty(shape)
            for buffer, prefix in zip(pair, (keys, values), strict=True):
                buffer[:, :, :width] = prefix[question_R]
            cache.append(pair)
        bias_R11S = None
        if not bool(real_QP.all()):
            bias_R11S = torch.zeros(rows, 1, 1, slots)
            padding = (real_QP == 0)[question_R]
            bias_R11S[:, 0, 0, :width].masked_fill_(padding, float("-inf"))
        uniforms_RT = torch.from_numpy(uniforms)
        position_R = real_QP.sum(-1)[question_R]
        alive_R = torch.arange(rows)  # original row of each row of the batch
        ended_R = torch.zeros(rows, dtype=torch.bool)
        tokens_RT = torch.zeros((rows, limit), dtype=torch.int64)
        logprobs_RT, entropies_RT, certainties_RT = (torch.zeros((rows, limit)) for _ in range(3))
        lengths_R = torch.full((rows,), limit)
        finished_R = torch.zeros(rows, dtype=torch.bool)

        logits_RV = logits_QV[question_R]
        for t in range(limit):
            token_R, logprob_R, entropy_R, certainty_R = pick(logits_RV, uniforms_RT[alive_R, t], sampling)
            going = alive_R[~ended_R]
            tokens_RT[going, t] = token_R[~ended_R]
            logprobs_RT[going, t] = logprob_R[~ended_R]
            entropies_RT[going, t] = entropy_R[~ended_R]
            certainties_RT[going, t] = certainty_R[~ended_R]
            ends_R = torch.isin(token_R, self.eos) & ~ended_R
            lengths_R[alive_R[ends_R]] = t + 1
            finished_R[alive_R[ends_R]] = True
            ended_R |= ends_R
            going_on = int((~ended_R).sum())
            if going_on == 0 or t + 1 == limit:
                break
            if going_on < COMPACT_BELOW * len(alive_R):
                keep = (~ended_R).nonzero()[:, 0]
                used = width + t
                for buffers in cache:
                    for buffer in buffers:
                        buffer[: len(keep), :, :used] = buffer[keep, :, :used]
                alive_R, token_R, position_R = alive_R[keep], token_R[keep], position_R[keep]
                ended_R = torch.zeros(len(keep), dtype=torch.bool)
                bias_R11S = None if bias_R11S is None else bias_R11S[keep]
            logits_RV = self._decode(token_R, position_R, width + t, cache, bias_R11S)
            position_R = position_R + 1

        return tokens_RT, logprobs_RT, entropies_RT, certainties_RT, lengths_R, finished_R
