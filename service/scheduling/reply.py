"""How long a finished batch waits for the event loop, and its answers with it: time that no deadline should forget."""

from __future__ import annotations

import math
from collections.abc import Callable

MEMORY_S = 0.5
MAX_SHARE = 0.5  # of a request's time: one hiccup must not make every deadline look hopeless


class ReplyDelay:
    """The largest delay of late, forgotten at a rate of 1 / MEMORY_S. clock: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seconds = 0.0
        self._seen_s = 0.0

    def observe(self, seconds: float) -> None:
        """A batch was done `seconds` before its last answer was written."""
        self._seconds = max(seconds, self._now())
        self._seen_s = self._clock()

    def of(self, timeout_s: float) -> float:
        """Seconds to take off a request that has `timeout_s`."""
        return min(self._now(), MAX_SHARE * timeout_s)

    def _now(self) -> float:
        if self._seconds == 0.0:
            return 0.0
        return self._seconds * math.exp(-max(0.0, self._clock() - self._seen_s) / MEMORY_S)
