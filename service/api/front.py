"""What stands between the transports and the data plane, shared by both protocols of a replica."""

from __future__ import annotations

import time

from service.api.arrivals import Arrivals
from service.api.buffers import Buffers
from service.api.gate import Gate
from service.api.turns import Turns
from service.errors import Overloaded
from service.inference.dataplane import Dataplane
from service.inference.limits import Limits
from service.types import Haste


class Front:
    """When a request arrived, whether and when it is read, and how much memory all of them may hold.

    base_path: prefix of every route.
    """

    def __init__(self, dataplane: Dataplane, limits: Limits, base_path: str = "") -> None:
        self._dataplane = dataplane
        self._turns = Turns(limits.turn_patience_s)
        self.gate = Gate(dataplane, base_path)
        self.buffers = Buffers(limits.max_buffered_bytes)
        self.arrivals = Arrivals()

    async def enter(self, model: str, version: str, arrival_s: float) -> None:
        """Returns when it is the turn of an inference request. Raises Overloaded, counted, if there is none for it."""
        try:
            waited = await self._turns.enter()
        except Overloaded as refusal:
            self._dataplane.turned_away(model, version, refusal, arrival_s)
            raise
        if waited:  # the flood may have been noticed since it came
            self.gate.check(model, version, Haste(None, time.monotonic() - arrival_s))
