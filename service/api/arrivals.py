"""When a request arrived: earlier than it is looked at, by the time its bytes waited for a busy event loop."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping

START_HEADER = "x-request-start"
MAX_AGE_S = 60.0  # more is a clock that is wrong
_STAMP = re.compile(r" ?t=([0-9]{13,17})", re.ASCII)


def age_of(stamp: str, now: Callable[[], float] = time.time) -> float | None:
    """Seconds since a proxy on this machine wrote `t=` and microseconds; None for anything else."""
    found = _STAMP.fullmatch(stamp)
    if found is None:
        return None
    age_s = now() - int(found[1]) * 1e-6
    return max(0.0, age_s) if age_s < MAX_AGE_S else None


class Arrivals:
    """Estimates that wait from how late a timer fires, so that deadlines count from when the client had sent all.

    Without it an overloaded loop answers requests that it believes to be on time and that nobody waits for any more:
    the queue in front of the loop is nobody's queue, and no deadline passes in it. The timer runs only with requests.
    """

    PERIOD_S = 0.01

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due_s = 0.0
        self._late_s = 0.0
        self._asked = False
        self._timer: asyncio.TimerHandle | None = None

    def of(self, headers: Mapping[str, str]) -> float:
        """The arrival of the request that is being looked at now, on the injected clock.

        The proxy in front tells it where there is one: what waits in sockets is then no secret.
        """
        stamp = headers.get(START_HEADER)
        age_s = None if stamp is None else age_of(stamp)
        return self.now() if age_s is None else self._clock() - age_s

    def now(self) -> float:
        """As far as this process can know.

        What the loop does since its timer was due, it did with the request waiting; and where turns are long, one
        turn accepts what the next one reads.
        """
        now = self._clock()
        self._asked = True
        if self._timer is None:
            self._arm(now)
        return now - max(0.0, now - self._due_s) - self._late_s

    def _arm(self, now: float) -> None:
        self._asked = False
        self._due_s = now + self.PERIOD_S
        self._timer = asyncio.get_running_loop().call_later(self.PERIOD_S, self._beat)

    def _beat(self) -> None:
        now = self._clock()
        self._timer = None
        if self._asked:
            self._late_s = max(0.0, now - self._due_s)
            self._arm(now)
        else:
            self._late_s = 0.0
