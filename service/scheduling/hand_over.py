"""When a busy worker gets its next batch: early by what the event loop is late in noticing that it is done."""

from __future__ import annotations

from collections.abc import Sequence

AHEAD = 2  # batches of one worker at most, the running one included
WEIGHT = 0.2
IDLE_LAG_S = 0.001  # less is no loop under load, and waiting for the worker makes fuller batches
MAX_LEAD_S = 0.02


class HandOver:
    """In a flood a turn of the loop takes as long as a batch, and the worker would idle for every second one.

    A batch that is handed over waits at the worker. It is formed without what still comes until the worker is free, so
    this must not be early by more than it has to.
    """

    def __init__(self) -> None:
        self._lag_s = 0.0

    def observe(self, lag_s: float) -> None:
        """A batch was done `lag_s` before the loop looked at it."""
        self._lag_s += WEIGHT * (lag_s - self._lag_s)

    @property
    def lead_s(self) -> float:
        """A batch ends somewhere within a turn: on average it is noticed half of one late."""
        return min(MAX_LEAD_S, 2.0 * self._lag_s) if self._lag_s >= IDLE_LAG_S else 0.0

    def may_start(self, now_s: float, expected_ends_s: Sequence[float], workers: int) -> bool:
        """Whether one more batch can be handed over, given when those that run should end."""
        busy = len(expected_ends_s)
        if busy < workers:
            return True
        if busy >= AHEAD * workers:
            return False
        return sorted(expected_ends_s)[busy - workers] - now_s <= self.lead_s
