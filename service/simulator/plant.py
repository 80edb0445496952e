"""The machine and the model: what a batch really takes, and what its answers are worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from service.control.profile import ServiceProfile
from service.control.types import ModelPlan
from swan_runtime.budget import CalibrationTable

QUALITY_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Noise:
    """Disturbance of service times: relative normal noise, and rare stalls of `stall_s` (preemption, page faults)."""

    sigma: float = 0.05
    stall_probability: float = 0.003
    stall_s: float = 0.010


class Plant:
    """One model on the simulated machine.

    profile: the true mean time. intensity_sigma: spread of compute over inputs (lognormal). quality: budget -> metric.
    """

    def __init__(
        self,
        plan: ModelPlan,
        quality: Callable[[float], float],
        intensity_sigma: float = 0.2,
        noise: Noise | None = None,
        true_profile: ServiceProfile | None = None,
    ) -> None:
        self.plan = plan
        self.profile = true_profile or plan.profile
        self.intensity_sigma = intensity_sigma
        self.noise = noise or Noise()
        self._quality = [quality(max(1, i) / QUALITY_STEPS) for i in range(QUALITY_STEPS + 1)]
        self._at_zero = [self._idle_seconds(rows) for rows in range(plan.max_batch + 1)]

    def quality(self, budget: float) -> float:
        return self._quality[round(budget * QUALITY_STEPS)]

    @property
    def quality_floor(self) -> float:
        return self.quality(self.plan.min_budget)

    @property
    def quality_full(self) -> float:
        return self.quality(self.plan.max_budget)

    def capacity(self, budget: float) -> float:
        """Rows per second of one worker at `budget`, in the largest batches that take half a deadline at most."""
        half = self.plan.default_deadline_s / 2
        rows = self.profile.largest_batch(budget, half, self.plan.max_batch)
        return rows / self.profile.seconds(budget, rows)

    def seconds(self, budgets: Sequence[float], intensities: Sequence[float], slow: float, rng: Random) -> float:
        """Time of one batch: the part that grows with the budget also grows with what each input's gates open."""
        rows = len(budgets)
        mean = self.profile.seconds(sum(budgets) / rows, rows)
        idle = self._at_zero[rows]
        weight = sum(b * x for b, x in zip(budgets, intensities, strict=True)) / sum(budgets)
        seconds = (idle + (mean - idle) * weight) * slow * max(0.5, 1.0 + rng.gauss(0.0, self.noise.sigma))
        if rng.random() < self.noise.stall_probability:
            seconds += self.noise.stall_s
        return seconds

    def _idle_seconds(self, rows: int) -> float:
        """Time of a batch that opens no gate: the profile carried on to budget 0."""
        knots = self.profile.at_knots(max(1, rows))
        if len(knots) < 2:
            return 0.0 if self.plan.min_budget == self.plan.max_budget else knots[0]
        budgets = self.profile.budgets
        slope = (knots[1] - knots[0]) / (budgets[1] - budgets[0])
        return max(0.0, knots[0] - slope * budgets[0])


def reference_plant(name: str = "reference", max_batch: int = 8, noise: Noise | None = None) -> Plant:
    """The synthetic plant of the published comparison: 10 ms a full request, budgets 0.1-1, deadline 50 ms.

    Accuracy 0.80 - 0.10 ((1 - budget) / 0.9)^2; the split t0 = 1 ms, f = 0.5 ms, a = 8.5 ms is ours.
    """
    profile = ServiceProfile.affine(0.001, 0.0005, 0.0085, (0.1, 1.0), max_batch)
    plan = ModelPlan(name, profile, default_deadline_s=0.05, max_batch=max_batch, min_budget=0.1)
    return Plant(plan, lambda budget: 0.80 - 0.10 * ((1.0 - min(max(budget, 0.1), 1.0)) / 0.9) ** 2, noise=noise)


def table_plant(plan: ModelPlan, table: CalibrationTable, noise: Noise | None = None) -> Plant:
    """A real model: its measured profile, its table's quality, the spread of compute over the calibration inputs."""
    return Plant(plan, table.expected_quality, _spread(table), noise)


def _spread(table: CalibrationTable) -> float:
    """Sigma of the lognormal whose 99th percentile / mean is the table's, worst budget taken; 0.02 to 0.6."""
    ratio = max(point.activity_p99 / max(point.activity_mean, 1e-6) for point in table.points)
    quantile = 2.326
    inside = max(0.0, quantile * quantile - 2.0 * math.log(max(ratio, 1.0)))
    return min(0.6, max(0.02, quantile - math.sqrt(inside)))
