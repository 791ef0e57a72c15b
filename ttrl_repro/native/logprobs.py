"""Log-probabilities of completions, and their gradient, with the native code, as an autograd function.

Against a padded forward pass it saves: a prompt is run once for all of its completions, nothing is padded,
the last token of a completion (whose successor does not matter) is not run, and the memory of a pass is
used again for the next.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from ttrl_repro.native import threads
from ttrl_repro.native.library import CBatch, CGradients, CLayerGradients
from ttrl_repro.native.weights import Buffers, Weights

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Part:
    """One thread's rows of a batch, flattened; `c` points into the arrays."""

    c: CBatch
    alive: tuple[Ints, ...]
    at: Ints  # where each target belongs in the batch's flattened (B, T)
    logprobs: NDArray[np.float32]
    entropies: NDArray[np.float32]


class LogProbs:
    """Log-probabilities of a live model: its weights are read at every call.

    Autograd knows the result as a function of `model.parameters()`. One result's backward pass must come
    before the next call, which uses the same memory.
    """

    def __init__(self, model: PreTrainedModel, library: ctypes.CDLL) -> None:
        self.model, self.library = model, library
        self.buffers = Buffers()
        self.calls = 0

    def __call__(
        self, prompts: list[list[int]], completions: list[list[int]], temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T) log-probabilities of each completion's tokens after its prompt, and entropies in nats.

        Both are those of softmax(logits / temperature), 0 beyond a completion's end; T is the longest.
        Entropies carry no gradient. Equal prompts are run once where their rows are neighbours. Raises ValueError
        for an empty prompt, a token outside the vocabulary, and rows longer than the model's positions.
        """
        self._refuse(prompts, completions)
        names, parameters = zip(*self.model.named_parameters(), strict=True)
        logprobs, entropies = _Function.apply(self, names, prompts, completions, temperature, *parameters)
        return logprobs, entropies

    def _refuse(self, prompts: list[list[int]], completions: list[list[int]]) -> None:
        """Raise ValueError for rows that would reach outside the model's memory."""
        config = self.model.config
        if not all(prompts):
            raise ValueError("an empty prompt has no next token")
        longest = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
        if longest > config.max_position_embeddings:
            raise ValueError(f"{longest} tokens exceed the model's {config.max_position_embeddings} positions")
        rows = [row for row in (*prompts, *completions) if row]
        if min(map(min, rows)) < 0 or max(map(max, rows)) >= config.vocab_size:
            raise ValueError(f"a token is outside the vocabulary of {config.vocab_size}")

    def padded(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, completion: int, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same for token ids (B, P + T), prompts padded on the left, completions of T on the right.

        Returns (B, T) each. Raises ValueError if the mask has holes.
        """
        split = input_ids.shape[1] - completion
        real = attention_mask.bool()
        before, after = real[:, :split], real[:, split:]
        if bool((before[:, :-1] & ~before[:, 1:]).any() or (after[:, 1:] & ~after[:, :-1]).any()):
            raise ValueError("the attention mask has holes: prompts are padded on the left, completions on the right")
        lists = input_ids.tolist()
        prompts = [row[split - n : split] for row, n in zip(lists, before.sum(1).tolist(), strict=True)]
        completions = [row[split : split + n] for row, n in zip(lists, after.sum(1).tolist(), strict=True)]
        found = self(prompts, completions, temperature)
        logprobs, entropies = (F.pad(values, (0, completion - values.shape[1])) for values in found)
        return logprobs, entropies

    def flatten(
        self, weights: Weights, prompts: list[list[int]], completions: list[list[int]], width: int, temperature: float
    ) -> list[_Part]:
        """The rows in one part per thread, balanced by tokens."""
        lengths = np.array([len(completion) for completion in completions])
        ends = lengths.cumsum()
        n = min(threads.count(), len(prompts))
        cuts = [0, *(int(np.searchsorted(ends, ends[-1] * i / n)) for i in range(1, n)), len(prompts)]
        return [
            self._part(weights, i, range(first, last), prompts, completions, width, temperature)
            for i, (first, last) in enumerate(pairwise(cuts))
            if first < last
        ]

    def _part(
        self,
        weights: Weights,
        index: int,
        rows: range,
        prompts: list[list[int]],
        completions: list[list[int]],
        width: int,
        temperature: float,
    ) -> _Part:
        token: list[int] = []
        position: list[int] = []
        starts, lengths, prompt_of = list[int](), list[int](), list[int]()
        used: list[int] = []  # tokens whose successor matters
        of_target, target, at = list[int](), list[int](), list[int]()
        shared, shared_row = -1, -1
        for b in rows:
            prompt, completion = prompts[b], completions[b]
            if shared < 0 or prompt != prompts[b - 1]:
                shared = len(starts)
                starts.append(len(token))
                lengths.append(len(prompt))
                prompt_of.append(-1)
                token += prompt
                position += range(len(prompt))
                shared_row = len(used)
                used.append(len(token) - 1)
            if not completion:
                continue
            of_target.append(shared_row)
            rest = len(completion) - 1
            if rest:
                starts.append(len(token))
                lengths.append(rest)
                prompt_of.append(shared)
                of_target += range(len(used), len(used) + rest)
                used += range(len(token), len(token) + rest)
                token += completion[:-1]
                position += range(len(prompt), len(prompt) + rest)
            target += completion
            at += range(b * width, b * width + len(completion))
        order = np.argsort(np.array(of_target, np.int64), kind="stable")
        arrays = [np.array(values, np.int64) for values in (token, position, starts, lengths, prompt_of, used)]
        sorted_arrays = [np.array(values, np.int64)[order] for values in (of_target, target, at)]
        logprobs, entropies = np.empty(len(order), np.float32), np.empty(len(order), np.float32)
        longest = max(lengths)
        library, pointer = self.library, weights.pointer
        memory = self.buffers.floats(f"memory {index}", library.memory_floats(pointer, len(token), len(used)))
        scratch = self.buffers.floats(f"scratch {index}", library.scratch_floats_of(pointer, len(token), longest))
        alive = (*arrays, *sorted_arrays)
        c = CBatch(
            tokens=len(token),
            sequences=len(starts),
            rows=len(used),
            targets=len(order),
            **dict(
                zip(
                    ("token", "position", "start", "length", "prompt", "row", "of_target", "target"),
                    (array.ctypes.data for array in alive),
                    strict=False,
                )
            ),
            temperature=temperature,
            logprobs=logprobs.ctypes.data,
            entropies=entropies.ctypes.data,
            memory=memory.data_ptr(),
            scratch=scratch.data_ptr(),
            longest=longest,
        )
        return _Part(c, alive, sorted_arrays[2], logprobs, entropies)

    def gradients(
        self, weights: Weights, parts: list[_Part], gradient: NDArray[np.float32], names: tuple[str, ...]
    ) -> list[torch.Tensor | None]:
        """The gradient of every parameter, given that of the flattened log-probabilities."""
        sizes = weights.gradient_shapes()
        total = sum(shape.numel() for shape in sizes.values())
        folded = [self.buffers.floats(f"gradients {i}", total)[:total].zero_() for i in range(len(parts))]
        calls = []
        alive = []
        for part, flat in zip(parts, folded, strict=True):
            layers = (CLayerGradients * weights.c.layers)()
            c = CGradients(layer=layers)
            offset = 0
            for (layer, name), shape in sizes.items():
                setattr(c if layer is None else layers[layer], name, flat.data_ptr() + 4 * offset)
                offset += shape.numel()
            of_targets = np.ascontiguousarray(gradient[part.at])
            alive.append((layers, c, of_targets))
            calls.append(
                partial(
                    self.library.logprobs_backward,
                    weights.pointer,
                    ctypes.byref(part.c),
                    ctypes.c_void_p(of_targets.ctypes.data),
                    ctypes.byref(c),
                )
            )
        threads.together(calls)
        for other in folded[1:]:
            folded[0] += other
        pieces = folded[0].split([shape.numel() for shape in sizes.values()])
        by_name = {key: piece.view(shape) for (key, shape), piece in zip(sizes.items(), pieces, strict=True)}
        found = weights.unfold(by_name)
        return [found.get(name) for name in names]


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        owner: LogProbs,
        names: tuple[str, ...],
        prompts: list[list[int]],
        completions: list[list[int]],
        temperature: float,
        *parameters: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        owner.calls += 1  # from here on the memory of an earlier pass is overwritten
        weights = Weights(owner.model, owner.library.panel_width(), backward=True)
        width = max(len(completion) for completion in completions)
        parts = owner.flatten(weights, prompts, completions, width, temperature)
        threads.together(
            [partial(owner.library.logprobs_forward, weights.pointer, ctypes.byref(part.c)) for part in parts]
        )
        logprobs, entropies = (np.zeros(len(prompts) * width, np.float32) for _ in range(2))
        for part in parts:
            logprobs[part.at], entropies[part.at] = part.logprobs, part.entropies
        ctx.versions = [parameter._version for parameter in parameters]
        ctx.owner, ctx.names, ctx.weights, ctx.parts, ctx.call = owner, names, weights, parts, owner.calls
        shape = (len(prompts), width)
        out = torch.from_numpy(logprobs).view(shape), torch.from_numpy(entropies).view(shape)
        ctx.mark_non_differentiable(out[1])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.call != ctx.owner.calls:
            raise RuntimeError("the memory of this forward pass has been used by a later one")
        if ctx.versions != [parameter._version for parameter in ctx.owner.model.parameters()]:
            raise RuntimeError("a parameter has been changed in place since this forward pass")
        flat = gradient.contiguous().view(-1).numpy()
        found = ctx.owner.gradients(ctx.weights, ctx.parts, flat, ctx.names)
        return (None, None, None, None, None, *found)
