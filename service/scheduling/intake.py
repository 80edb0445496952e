"""How many requests are worth reading while a model's load is refused: as many as were answered, and a few more.

The admission test needs a decoded request and costs a good part of what it saves. In a flood it is asked for little
more than what comes out at the other end; the surplus is refused by whoever reads the bytes, at a tenth of the cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable

PROBE_RATIO = 0.1  # so that the admission test is still asked, and tells when the flood is over
HOLD_S = 0.25  # without a refusal by the test: the flood is over
MANY = 64  # refusals within that time make a flood; a few are a moment's hiccup, and testing them costs little
TRICKLE, TRICKLE_S = 16, 0.01  # requests that are read in that time while there is nothing to answer


class Intake:
    """The room of one model. clock: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._room = 0.0
        self._horizon_s = 0.0
        self._trickled_s = -math.inf
        self.until_s = -math.inf  # when the flood is over, unless more is refused
        self._first_s, self._refusals = -math.inf, 0

    @property
    def flooded(self) -> bool:
        return self._clock() < self.until_s

    def refused(self, timeout_s: float) -> None:
        """The admission test refused a request of that much time, for the load and not for what it asks."""
        now = self._clock()
        if not self.flooded:
            if now - self._first_s > HOLD_S:
                self._first_s, self._refusals = now, 0
            self._refusals += 1
            if self._refusals < MANY:
                return
            self._room = self._horizon_s = 0.0
        self.until_s = now + HOLD_S
        self._horizon_s = max(self._horizon_s, timeout_s)

    def answered(self, requests: int) -> None:
        """So many of a batch are on time. What its predecessor left over is kept, older room is not.

        What is late makes no room: the queue is too long then.
        """
        self._room = min(self._room, requests) + (1.0 + PROBE_RATIO) * requests

    def takes(self, timeout_s: float, idle: bool) -> bool:
        """Whether to read one more request; that takes its place. Who has more time than all refused ones is tested.

        idle: nothing of the model waits or runs.
        """
        if not self.flooded or timeout_s > self._horizon_s:
            return True
        if self._room < 1.0 and not (idle and self._trickle()):
            return False
        self._room -= 1.0
        return True

    def _trickle(self) -> bool:
        """A flood can be such that nothing is answered: who is read then was too old when the loop came to it."""
        now = self._clock()
        if now - self._trickled_s < TRICKLE_S:
            return False
        self._trickled_s, self._room = now, float(TRICKLE)
        return True
