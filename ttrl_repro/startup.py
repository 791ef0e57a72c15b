"""Settings of a process that must stand before PyTorch is loaded. The user's own win."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
import sys
import warnings

# From malloc.h: requests from this size on get pages of their own, and free memory beyond this goes back to the system.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 2**30
STDERR = 2  # the descriptor: a notebook's sys.stderr has none


def keep_freed_memory() -> None:
    """Let the C library keep large blocks that are freed: pages given back are faulted in again at every step.

    Only where the library is glibc, and unless the environment sets MALLOC_MMAP_THRESHOLD_ or MALLOC_TRIM_THRESHOLD_.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return
    for parameter, variable in (
        (M_MMAP_THRESHOLD, "MALLOC_MMAP_THRESHOLD_"),
        (M_TRIM_THRESHOLD, "MALLOC_TRIM_THRESHOLD_"),
    ):
        if variable not in os.environ:
            mallopt(parameter, KEPT_BYTES)


def prepare_process() -> None:
    """Threads, memory, quieter libraries; on SIGUSR1 the process prints where each of its threads is."""
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, file=STDERR)
    # Waiting threads sleep instead of spinning: on a busy machine spinning slows OpenMP 4 to 10 times.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch's large tensors on large pages
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("WANDB_SILENT", "true")
    keep_freed_memory()
    # TRL still uses names that transformers has changed.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    # The hub's retries are warnings; what came of them is an exception.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
