"""What a law remembers between decisions: rates, and per model its plan and slowdown."""

from __future__ import annotations

import math

from service.control.edf import EdfQueue
from service.control.profile import Slowdown
from service.control.types import ModelPlan

RATE_WINDOW_S = 0.2
IN_USE_S = 10.0


class Rate:
    """Events per second, exponentially weighted over `window_s`."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._rate = 0.0
        self.last_s = -math.inf

    def count(self, now_s: float, events: int = 1) -> None:
        self._rate = self.at(now_s) + events / self._window_s
        self.last_s = now_s

    def at(self, now_s: float) -> float:
        return self._rate * math.exp(min(0.0, self.last_s - now_s) / self._window_s) if self._rate else 0.0


class Track:
    """One model: its plan, its slowdown, the rows that arrive per second."""

    def __init__(self, plan: ModelPlan, slowdown: Slowdown) -> None:
        self.plan = plan
        self.slowdown = slowdown
        self.arrivals = Rate(RATE_WINDOW_S)

    def shortest_deadline(self, now_s: float, queue: EdfQueue) -> float:
        """Relative deadline that the next arrivals may have, seconds; infinite for a model that is not in use."""
        if queue:
            head = queue.items[0]
            return min(self.plan.default_deadline_s, head.deadline_s - head.arrival_s)
        return self.plan.default_deadline_s if now_s - self.arrivals.last_s < IN_USE_S else math.inf
