"""The constants of the law, and what it remembers between decisions: rates, and per model its plan and slowdown."""

from __future__ import annotations

import math
from dataclasses import dataclass

from service.control.edf import EdfQueue
from service.control.profile import Slowdown
from service.control.types import ModelPlan, QueuedItem

RATE_WINDOW_S = 0.2
IN_USE_S = 10.0


@dataclass(frozen=True, slots=True)
class LawSettings:
    """Constants of the law, all chosen in the simulator (docs/adr/0003).

    margin_sigmas: z, how many sigmas slower than expected a batch may be. admission_sigmas: the same for the admission
    test, where a false refusal costs as much as a miss; first_sigmas: its value until something was refused within
    strict_deadlines, as a short burst is likelier to fit than not. guard_ratio: share of a deadline left for what the
    profile does not see. block_ratio: longest batch, in default deadlines. rise_limit: largest rise of the budget per
    dispatch; it falls at once. max_queue: items per model.
    """

    margin_sigmas: float = 2.75
    admission_sigmas: float = 1.0
    first_sigmas: float = -1.0
    strict_deadlines: float = 5.0
    block_ratio: float = 0.4
    guard_ratio: float = 0.05
    rise_limit: float = 0.15
    max_queue: int = 10_000
    cold_service_ratio: float = 1.3


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

    def margin(self, sigmas: float) -> float:
        """Seconds that a profiled second may take."""
        return self.slowdown.kappa + sigmas * self.slowdown.sigma

    def largest_batch(self, deadline_s: float, margin: float, settings: LawSettings) -> int:
        """Rows of the largest batch that leaves room for more urgent arrivals, at the lowest budget."""
        allowed_s = settings.block_ratio * deadline_s / margin
        return self.plan.profile.largest_batch(self.plan.min_budget, allowed_s, self.plan.max_batch)

    def deadline(self, first: QueuedItem) -> float:
        """Relative deadline to plan with while `first` is the most urgent request, seconds."""
        return min(self.plan.default_deadline_s, first.deadline_s - first.arrival_s)

    def shortest_deadline(self, now_s: float, queue: EdfQueue) -> float:
        """Relative deadline that the next arrivals may have, seconds; infinite for a model that is not in use."""
        if queue:
            return self.deadline(queue.items[0])
        return self.plan.default_deadline_s if now_s - self.arrivals.last_s < IN_USE_S else math.inf
