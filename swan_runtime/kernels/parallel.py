"""Sharing the rows of one call out over a bounded number of threads. No global setting is touched."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise


def share_out(work: Callable[[slice], None], items: int, threads: int) -> None:
    """Call work(part) for parts that cover range(items), in at most `threads` threads; the kernels release the GIL."""
    parts = min(threads, items)
    if parts <= 1:
        work(slice(0, items))
        return
    bounds = [items * i // parts for i in range(parts + 1)]
    # list() waits for all parts and raises what one of them raised.
    list(_pool(threads).map(work, [slice(a, b) for a, b in pairwise(bounds)]))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="swan-kernel")
