"""Answers a request at the moment its deadline passes in the queue: one timer for all of them."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable


class DeadlineTimer:
    """Calls `expire` on the event loop once per sequence number whose time has come, unless it was discarded before.

    Holds numbers, not requests, so a request that left the queue is not kept in memory until its deadline.
    """

    def __init__(self, expire: Callable[[int], None], clock: Callable[[], float]) -> None:
        self._expire = expire
        self._clock = clock
        self._heap: list[tuple[float, int]] = []
        self._waiting: set[int] = set()
        self._handle: asyncio.TimerHandle | None = None
        self._fires_at = float("inf")

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sequence: int, deadline_s: float) -> None:
        self._waiting.add(sequence)
        heapq.heappush(self._heap, (deadline_s, sequence))
        # An armed timer is left alone unless it would be too late: most requests never get here.
        if deadline_s < self._fires_at:
            self._arm(deadline_s)

    def discard(self, sequence: int) -> None:
        self._waiting.discard(sequence)

    def close(self) -> None:
        self._waiting.clear()
        self._heap.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, when_s: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._fires_at = when_s
        self._handle = asyncio.get_running_loop().call_later(max(0.0, when_s - self._clock()), self._fire)

    def _fire(self) -> None:
        now = self._clock()
        self._handle, self._fires_at = None, float("inf")
        heap, waiting = self._heap, self._waiting
        while heap and (heap[0][0] <= now or heap[0][1] not in waiting):
            sequence = heapq.heappop(heap)[1]
            if sequence in waiting:
                waiting.discard(sequence)
                self._expire(sequence)
        if heap:
            self._arm(heap[0][0])
