"""The CPU engine with the native code.

Each thread decodes some rows together; a row that ends makes room for the next one at once, so that no
thread waits for the longest completion. A row's result does not depend on which rows are beside it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial

import numpy as np
from transformers import PreTrainedModel

from ttrl_repro.native import threads
from ttrl_repro.native.library import CPrompts, CSampler
from ttrl_repro.native.weights import Buffers, Weights
from ttrl_repro.rollouts.base import Samples, Sampling

ROWS = 60  # decoded together by a thread: 24 to 96 are equally fast for the miniatures, more is slower
CACHE_BYTES = 512 * 2**20  # of the keys and values of all threads: fewer rows where they take more


class NativeDecoder:
    """Samples from a live model; its weights are read at every call."""

    def __init__(self, model: PreTrainedModel, eos_ids: list[int], library: ctypes.CDLL) -> None:
        self.model, self.library = model, library
        self.eos = np.array(sorted(eos_ids), np.int64)
        self.buffers = Buffers()

    def sample(
        self, prompts: list[list[int]], uniforms_QNT: np.ndarray, sampling: Sampling, report: Callable[[int], None]
    ) -> Samples:
        """See `Engine.sample`."""
        library = self.library
        weights = Weights(self.model, library.panel_width(), backward=False)
        n_questions, n, stride = uniforms_QNT.shape
        limit = sampling.max_new_tokens
        lengths = np.array([len(prompt) for prompt in prompts], np.int64)
        longest = int(lengths.max())
        starts = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
        tokens = np.concatenate([np.array(prompt, np.int64) for prompt in prompts])
        sizes = np.array([library.prompt_cache_floats(weights.pointer, int(length)) for length in lengths])
        cache_starts = (sizes.cumsum() - sizes).astype(np.int64)
        c_prompts = CPrompts(
            tokens=tokens.ctypes.data,
            starts=starts.ctypes.data,
            cache=self.buffers.floats("prompts", int(sizes.sum())).data_ptr(),
            cache_starts=cache_starts.ctypes.data,
            logits=self.buffers.floats("logits", n_questions * weights.c.vocab).data_ptr(),
        )
        workers = threads.count()
        row_bytes = 4 * library.prompt_cache_floats(weights.pointer, limit)
        slots = max(1, min(ROWS, CACHE_BYTES // (workers * row_bytes)))
        needed = library.sampler_floats(weights.pointer, slots, limit, longest + limit)
        memories = [ctypes.c_void_p(self.buffers.floats(f"thread {i}", needed).data_ptr()) for i in range(workers)]
        rows = [np.zeros(slots * library.row_bytes(), np.uint8) for _ in range(workers)]
        cuts = [n_questions * i // workers for i in range(workers + 1)]
        integer = ctypes.c_int64
        shared = np.zeros(3, np.int64)  # the next row to start, rows that are done, whether to give up

        def abandon() -> None:
            shared[2] = 1

        def read_prompts(worker: int) -> None:
            for first in range(cuts[worker], cuts[worker + 1], slots):
                if shared[2]:
                    return
                library.read_prompts_of(
                    weights.pointer,
                    ctypes.byref(c_prompts),
                    integer(first),
                    integer(min(first + slots, cuts[worker + 1])),
                    integer(longest),
                    memories[worker],
                    ctypes.c_void_p(rows[worker].ctypes.data),
                )

        threads.together([partial(read_prompts, worker) for worker in range(workers)], abandon=abandon)
        uniforms = np.ascontiguousarray(uniforms_QNT, np.float64)
        count = n_questions * n
        out_tokens = np.zeros((count, limit), np.int64)
        logprobs, entropies, certainties = (np.zeros((count, limit), np.float32) for _ in range(3))
        out_lengths, finished = np.zeros(count, np.int64), np.zeros(count, np.uint8)
        address = shared.ctypes.data
        c_sampler = CSampler(
            uniforms=uniforms.ctypes.data,
            uniforms_stride=stride,
            rows=count,
            samples=n,
            limit=limit,
            slots=slots,
            top_p=sampling.top_p,
            temperature=sampling.temperature,
            eos_count=len(self.eos),
            eos=self.eos.ctypes.data,
            tokens=out_tokens.ctypes.data,
            logprobs=logprobs.ctypes.data,
            entropies=entropies.ctypes.data,
            certainties=certainties.ctypes.data,
            lengths=out_lengths.ctypes.data,
            finished=finished.ctypes.data,
            next=address,
            done=address + shared.itemsize,
            stop=address + 2 * shared.itemsize,
        )
        of_row = [np.zeros(slots, np.int64) for _ in range(workers)]
        reported = 0

        def look() -> None:
            nonlocal reported
            done = int(shared[1])
            if done > reported:
                report(done - reported)
                reported = done

        threads.together(
            [
                partial(
                    library.sample_rows,
                    weights.pointer,
                    ctypes.byref(c_prompts),
                    ctypes.byref(c_sampler),
                    memories[i],
                    ctypes.c_void_p(rows[i].ctypes.data),
                    ctypes.c_void_p(of_row[i].ctypes.data),
                    integer(longest),
                )
                for i in range(workers)
            ],
            look,
            abandon,
        )
        look()
        return Samples.of_rows(n, out_tokens, out_lengths, finished.astype(bool), logprobs, entropies, certainties)
