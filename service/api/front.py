"""What stands between the transports and the data plane, shared by both protocols of a replica."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.api.arrivals import Arrivals
from service.api.buffers import Buffers
from service.api.turns import Turns
from service.inference.limits import Limits


@dataclass(frozen=True, slots=True)
class Front:
    """When a request arrived, when it is its turn to be read, and how much memory all of them may hold."""

    turns: Turns
    buffers: Buffers
    arrivals: Arrivals = field(default_factory=Arrivals)

    @staticmethod
    def of(limits: Limits) -> Front:
        return Front(Turns(limits.turn_patience_s), Buffers(limits.max_buffered_bytes))
