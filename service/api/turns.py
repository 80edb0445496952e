"""Bounds what one turn of the event loop begins, and begins the newest request first when more wait.

A loop that reads whatever has arrived before it does anything else is busy reading for as long as more arrives than it
can answer: batches that are ready wait for the end of a turn that lasts hundreds of milliseconds, and when their turn
comes every request is too old. With a bounded turn results and batches move on in between. Newest first keeps the
requests that can still be answered in time moving while the others are given up (adaptive LIFO: Maurer, "Fail at
Scale", ACM Queue 13(8), 2015).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from service.errors import Overloaded

REASON = "ingress"
A_TURN = 32  # some 10 ms of decoding and admitting


class Turns:
    """A gate that every inference request passes before it is read. clock: monotonic seconds.

    patience_s: who has waited longer is refused. By then most deadlines have passed.
    """

    def __init__(self, patience_s: float, a_turn: int = A_TURN, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s, self._a_turn, self._clock = patience_s, a_turn, clock
        self._begun = 0
        self._waiting: deque[tuple[asyncio.Future[None], float]] = deque()
        self._counting = False

    async def enter(self) -> bool:
        """Returns when it is this request's turn: whether it had to wait. Raises Overloaded if that takes too long."""
        if self._begun < self._a_turn and not self._waiting:
            self._begin()
            return False
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append((turn, self._clock()))
        await turn
        return True

    def _begin(self) -> None:
        self._begun += 1
        if not self._counting:
            self._counting = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        """Runs once a turn while requests come; a client that left is skipped."""
        self._begun, self._counting = 0, False
        while self._waiting and self._begun < self._a_turn:
            turn, _ = self._waiting.pop()
            if not turn.done():
                turn.set_result(None)
                self._begin()
        self._give_up()

    def _give_up(self) -> None:
        """A turn's worth of those who have waited too long, the oldest first: refusing is work as well."""
        late_s = self._clock() - self._patience_s
        refused = 0
        while self._waiting and self._waiting[0][1] < late_s and refused < 2 * self._a_turn:
            turn, _ = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(Overloaded("more requests arrive than can be read", 1.0, REASON))
                refused += 1
