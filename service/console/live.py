"""The metrics registry as what the live view polls: running totals, so that any poller can take differences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Metric

REQUESTS = "swan_requests"
DURATION = "swan_request_duration_seconds"
RATIOS = {"swan_request_budget_ratio": "budget", "swan_request_activity_ratio": "activity"}
ANSWERED = ("ok", "late")


@dataclass(slots=True)
class ModelTotals:
    """Totals of one model since the start, versions and priorities summed. buckets: upper bound -> count so far."""

    outcomes: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    buckets: defaultdict[float, float] = field(default_factory=lambda: defaultdict(float))

    def view(self) -> dict[str, Any]:
        bounds = sorted(self.buckets)
        cumulative = [self.buckets[bound] for bound in bounds]
        return {
            "answered": sum(self.outcomes[name] for name in ANSWERED),
            "late": self.outcomes["late"],
            "refused": self.outcomes["shed"],
            "failed": self.outcomes["error"],
            "latency_bounds_s": bounds[:-1],
            "latency_counts": [now - before for now, before in zip(cumulative, [0.0, *cumulative], strict=False)],
            **{f"{name}_{part}": self.sums[f"{name}_{part}"] for name in RATIOS.values() for part in ("sum", "count")},
        }


def live_totals(families: Iterable[Metric]) -> dict[str, dict[str, Any]]:
    """Model name -> totals. families: what a prometheus registry collects, of one process or of several."""
    models: defaultdict[str, ModelTotals] = defaultdict(ModelTotals)
    for family in families:
        if family.name == REQUESTS or family.name == DURATION or family.name in RATIOS:
            for sample in family.samples:
                if "model" in sample.labels:
                    _add(models[sample.labels["model"]], family.name, sample)
    return {name: totals.view() for name, totals in models.items()}


def _add(totals: ModelTotals, family: str, sample: Any) -> None:
    if sample.name == f"{REQUESTS}_total":
        totals.outcomes[sample.labels["outcome"]] += sample.value
    elif sample.name == f"{DURATION}_bucket":
        totals.buckets[float(sample.labels["le"])] += sample.value
    elif family in RATIOS:
        for part in ("sum", "count"):
            if sample.name == f"{family}_{part}":
                totals.sums[f"{RATIOS[family]}_{part}"] += sample.value
