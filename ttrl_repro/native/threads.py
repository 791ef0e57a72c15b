"""Threads for native code, which releases Python's lock: as many as PyTorch uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache

import torch

POLL = 0.1  # seconds between two looks at the progress


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="native")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of its parent's threads


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
    futures: list[Future[object]] = []
    try:
        for call in calls:
            futures.append(_pool(count()).submit(call))
        while wait(futures, timeout=POLL).not_done:
            look()
    except BaseException:
        abandon()
        raise
    finally:
        _wait_for(futures, abandon)
    for future in futures:
        future.result()


def _wait_for(futures: Sequence[Future[object]], abandon: Callable[[], None]) -> None:
    """Wait, whatever comes: the calls write into memory that must stay until they are done."""
    interrupted = None
    while True:
        try:
            wait(futures)
            break
        except KeyboardInterrupt as error:
            interrupted = error
            abandon()
    if interrupted is not None:
        raise interrupted
