"""Schedules over training progress in [0, 1], and the budgets of each step. Pure; the random source is injected."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


def exponential(progress: float, start: float, end: float) -> float:
    """start -> end along a geometric path: the gates' temperature."""
    return float(start * (end / start) ** _clip(progress))


def linear_decay(progress: float, start: float, until: float) -> float:
    """start -> 0 at progress `until`, then 0: the batch-shaping weight (0.75 until 0.2 in the paper's code)."""
    return start * max(0.0, 1.0 - _clip(progress) / until)


def ramp(progress: float, end: float, begin: float, until: float) -> float:
    """0 before `begin`, rising linearly to `end` at `until`: the L0 weight."""
    return end * min(1.0, max(0.0, (_clip(progress) - begin) / (until - begin)))


def cosine_release(progress: float, start: float, until: float) -> float:
    """start * cos^2, 0 from `until` on: lets go of the band that pins each layer near the target."""
    share = _clip(progress) / until
    return start * math.cos(0.5 * math.pi * share) ** 2 if share < 1.0 else 0.0


@dataclass(frozen=True)
class SandwichSampler:
    """Budgets of one step by the sandwich rule (US-Nets): the largest, the smallest, and `extra` in between.

    Largest first, so that its output can teach the others. Between, budgets are log-uniform: compute halves as often
    at the low end as at the high end.
    """

    low: float
    high: float = 1.0
    extra: int = 1

    def sample(self, source: random.Random) -> tuple[float, ...]:
        middle = [math.exp(source.uniform(math.log(self.low), math.log(self.high))) for _ in range(self.extra)]
        return (self.high, self.low, *middle)


def nominal_threshold(budget: float, sharpness: float = 1.0) -> float:
    """A threshold on logit scores that falls as the budget grows: sharpness * logit(1 - budget), OPEN-like at 1.

    For training with one shared threshold per budget, where budget_loss then moves each layer's scores.
    """
    inside = min(max(budget, 1e-6), 1.0 - 1e-6)
    return sharpness * math.log((1.0 - inside) / inside)


def _clip(progress: float) -> float:
    return min(1.0, max(0.0, progress))
