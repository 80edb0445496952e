"""The slow knob: how many replicas serve the load at the target budget. Ray Serve calls the policy; no ray here.

Adaptation hides load from an autoscaler that counts requests: at twice the full-budget capacity a handful of requests
is in work, at half the budget. So the law counts what the load would cost at the target budget.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

TARGET_BUDGET = 0.9

# keys of what a replica reports (`record_autoscaling_stats`)
DEMAND = "demand_workers"  # workers that its arrivals would keep busy at the target budget
WORKERS = "workers"
BUDGET = "mean_budget"
SHED_RATE = "shed_per_s"


@dataclass(frozen=True, slots=True)
class ScaleSettings:
    """utilisation: busy share of workers aimed at.

    Scaling down also needs budgets of at least `down_budget` and, with one replica less, a utilisation below
    `down_utilisation`. How long a wish must hold is Ray Serve's to say (upscale_delay_s, downscale_delay_s).
    """

    utilisation: float = 0.8
    down_budget: float = 0.98
    down_utilisation: float = 0.7


@dataclass(frozen=True, slots=True)
class Demand:
    """All replicas together. workers_needed: at the target budget; workers_each: of one replica."""

    workers_needed: float
    workers_each: float
    lowest_budget: float
    shed_per_s: float


def replicas_needed(demand: Demand, current: int, settings: ScaleSettings) -> int:
    """Replicas for the load, unbounded and undelayed: more as soon as needed, one fewer at a time."""
    each = max(demand.workers_each, 1e-9)
    wanted = max(1, math.ceil(demand.workers_needed / (settings.utilisation * each) - 1e-9))
    if wanted >= current:
        return max(wanted, current + 1) if demand.shed_per_s > 0 and wanted == current else wanted
    relaxed = demand.lowest_budget >= settings.down_budget and demand.shed_per_s == 0
    fits = demand.workers_needed / ((current - 1) * each) < settings.down_utilisation
    return current - 1 if relaxed and fits else current


class ScalingContext(Protocol):
    """The part of Ray Serve's AutoscalingContext that the law reads."""

    current_num_replicas: int
    target_num_replicas: int
    capacity_adjusted_min_replicas: int
    capacity_adjusted_max_replicas: int
    aggregated_metrics: Mapping[str, Mapping[Any, float]] | None
    total_num_requests: float
    config: Any


class TargetBudgetPolicy:
    """Ray Serve autoscaling policy: scale on replicas needed at the target budget. settings: of ScaleSettings.

    It has no state and no delays of its own: Ray Serve wraps every policy in the delays of the autoscaling config and
    counts consecutive wishes, so a policy that held a wish back itself would never be heard. Falls back to Ray's own
    request counting while no replica reports its demand.
    """

    def __init__(self, **settings: float) -> None:
        self.settings = ScaleSettings(**settings)

    def __call__(self, ctx: ScalingContext) -> tuple[int, dict[str, Any]]:
        if ctx.current_num_replicas < ctx.target_num_replicas:
            return ctx.target_num_replicas, {}  # hold while replicas start
        demand = read_demand(ctx.aggregated_metrics or {})
        if demand is None:
            return _bounded(ctx, _by_requests(ctx)), {}
        return _bounded(ctx, replicas_needed(demand, max(1, ctx.current_num_replicas), self.settings)), {}


def read_demand(metrics: Mapping[str, Mapping[Any, float]]) -> Demand | None:
    """Sum what the replicas reported; None unless every metric is there."""
    needed, workers = _values(metrics, DEMAND), _values(metrics, WORKERS)
    if not needed or not workers:
        return None
    return Demand(
        workers_needed=sum(needed),
        workers_each=sum(workers) / len(workers),
        lowest_budget=min(_values(metrics, BUDGET), default=1.0),
        shed_per_s=sum(_values(metrics, SHED_RATE)),
    )


def _values(metrics: Mapping[str, Mapping[Any, float]], name: str) -> list[float]:
    values: Iterable[float] = (metrics.get(name) or {}).values()
    return [float(value) for value in values if math.isfinite(float(value))]


def _by_requests(ctx: ScalingContext) -> int:
    target = float(getattr(ctx.config, "target_ongoing_requests", None) or 2.0)
    return math.ceil(float(ctx.total_num_requests) / target)


def _bounded(ctx: ScalingContext, wanted: int) -> int:
    return min(max(wanted, ctx.capacity_adjusted_min_replicas), ctx.capacity_adjusted_max_replicas)
