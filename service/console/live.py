"""The metrics registry as what the live view polls: running totals, so that any poller can take differences."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Metric

REQUESTS = "swan_requests"
DURATION = "swan_request_duration_seconds"
RATIOS = {"swan_request_budget_ratio": "budget", "swan_request_activity_ratio": "activity"}
ANSWERED = ("ok", "late")
MAX_AGE_S = 0.5  # all viewers share one reading: with several replicas it costs about 15 ms of file reading

Totals = dict[str, dict[str, Any]]


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


def live_totals(families: Iterable[Metric]) -> Totals:
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


class LiveFeed:
    """Totals at most MAX_AGE_S old. publish: brings this process's counts up to date; collect: reads all families."""

    def __init__(
        self,
        publish: Callable[[], None],
        collect: Callable[[], Iterable[Metric]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._publish, self._collect, self._clock = publish, collect, clock
        self._lock = asyncio.Lock()
        self._read_s = float("-inf")
        self._totals: Totals = {}

    async def totals(self) -> tuple[float, Totals]:
        """(when they were read on the monotonic clock, the totals by model)."""
        async with self._lock:
            if self._clock() - self._read_s >= MAX_AGE_S:
                self._publish()
                self._totals = await asyncio.to_thread(lambda: live_totals(self._collect()))
                self._read_s = self._clock()
            return self._read_s, self._totals
