"""Threads for native code, which releases Python's lock: as many as PyTorch uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import torch

POLL = 0.1  # seconds between two looks at the progress


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="native")


def count() -> int:
    """Threads to divide work among."""
    return torch.get_num_threads()


def together(
    calls: Sequence[Callable[[], object]],
    look: Callable[[], None] = lambda: None,
    abandon: Callable[[], None] = lambda: None,
) -> None:
    """Make the calls side by side and wait for all of them; `look` is called now and then meanwhile.

    Raises what a call or `look` raised (or KeyboardInterrupt) after every call has ended; `abandon` asks
    them to end early in that case.
    """
    futures = [_pool(count()).submit(call) for call in calls]
    try:
        while wait(futures, timeout=POLL).not_done:
            look()
    except BaseException:
        abandon()
        raise
    finally:
        wait(futures)  # they write into memory that must stay until they are done
    for future in futures:
        future.result()
