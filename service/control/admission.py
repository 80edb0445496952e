"""The admission test at arrival: refuse at once what cannot be on time, with a computed time to come back."""

from __future__ import annotations

import math

MAX_RETRY_AFTER_S = 30.0


class RetrySlots:
    """Retry-After that spreads the return of refused requests over the time the machine needs to serve them.

    Every refusal reserves its own service time behind the earlier ones; the reservation runs off as time passes.
    A crowd that is refused together is thus not told to come back together.
    """

    def __init__(self) -> None:
        self._reserved_until_s = -math.inf

    def reserve(self, now_s: float, wait_s: float, service_s: float) -> float:
        """Seconds after which to retry: `wait_s` until the backlog has room, behind what was promised before."""
        start = max(self._reserved_until_s, now_s)
        self._reserved_until_s = min(start + service_s, now_s + MAX_RETRY_AFTER_S)
        return min(MAX_RETRY_AFTER_S, max(0.0, wait_s) + start - now_s)
