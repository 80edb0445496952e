"""The metrics of one model version: counted into plain lists on the way of a request, published a few times a second.

A request costs about a microsecond here instead of fifteen; a scrape is at most one publishing period behind.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from prometheus_client import Histogram

from service.telemetry.metrics import MODES, Metrics, Outcome

NOT_LOAD = frozenset({"quota", "draining"})


@dataclass(frozen=True, slots=True)
class ControllerState:
    """What the controller of one model does now. saturated: `floor`, `ceiling` or empty."""

    budget: float
    threshold: float
    kappa: float
    sigma: float
    queue_requests: int
    backlog_s: float
    arrival_rate: float
    saturated: str
    mode: str
    desired_replicas: float = 1.0


@dataclass(slots=True)
class Served:
    """One answered request, as it is counted. Times in seconds."""

    priority: str
    queue_s: float
    total_s: float
    on_time: bool
    budget: float
    activity: float
    macs: int
    macs_dense: int
    quality_expected: float | None
    cap_hits: int = 0


@dataclass(slots=True)
class BatchCost:
    """One computed batch. Times in seconds."""

    requests: int
    rows: int
    input_s: float
    compute_s: float
    output_s: float


class ModelMetrics:
    """Count on the event loop; `publish` moves what was counted into the registry."""

    def __init__(self, metrics: Metrics, model: str, version: str) -> None:
        self._all = metrics
        self._labels = (model, version)
        self._served: list[Served] = []
        self._batches: list[BatchCost] = []
        self._decisions: list[float] = []
        self._outcomes: Tally[tuple[str, Outcome]] = Tally()
        self._sheds: Tally[str] = Tally()
        self.num_shed_by_load = 0
        self.publish()  # so that every series of the model is there, at zero, before its first request

    def count_batch(self, cost: BatchCost) -> None:
        self._batches.append(cost)

    def count_served(self, served: Sequence[Served]) -> None:
        self._served += served

    def count_shed(self, priority: str, reason: str) -> None:
        """Refused or dropped: it missed its objective. reason: a ShedReason or `draining`."""
        self._sheds[reason] += 1
        self.num_shed_by_load += reason not in NOT_LOAD
        self._outcomes[priority, Outcome.SHED] += 1

    def count_error(self, priority: str) -> None:
        self._outcomes[priority, Outcome.ERROR] += 1

    def count_cancelled(self, priority: str) -> None:
        self._outcomes[priority, Outcome.CANCELLED] += 1

    def observe_decision(self, seconds: float) -> None:
        self._decisions.append(seconds)

    def count_watchdog(self) -> None:
        self._all.controller_watchdog.labels(*self._labels).inc()

    def count_verdict(self, verdict: str) -> None:
        """What the law would have done with a dispatch or an arrival while it is only watched."""
        self._all.shadow_verdicts.labels(*self._labels, verdict).inc()

    def count_worker_death(self) -> None:
        self._all.worker_deaths.labels(*self._labels).inc()

    def set_profile(self, profile: str, source: str) -> None:
        """profile: its hash; source: measured or cached."""
        self._all.profile_info.labels(*self._labels, profile, source).set(1)

    def set_layers(self, activity: Mapping[str, float]) -> None:
        for layer, value in activity.items():
            self._all.layer_activity.labels(*self._labels, layer).set(value)

    def set_pending(self, requests: int) -> None:
        self._all.pending.labels(*self._labels).set(requests)

    def set_controller(self, state: ControllerState) -> None:
        everything, labels = self._all, self._labels
        everything.controller_budget.labels(*labels).set(state.budget)
        everything.controller_threshold.labels(*labels).set(state.threshold)
        everything.controller_service_ratio.labels(*labels).set(state.kappa)
        everything.controller_margin_sigma.labels(*labels).set(state.sigma)
        everything.controller_queue.labels(*labels).set(state.queue_requests)
        everything.controller_backlog.labels(*labels).set(state.backlog_s)
        everything.controller_arrival_rate.labels(*labels).set(state.arrival_rate)
        everything.desired_replicas.labels(*labels).set(state.desired_replicas)
        for edge in ("floor", "ceiling"):
            everything.controller_saturated.labels(*labels, edge).set(float(edge == state.saturated))
        for mode in MODES:
            everything.controller_mode.labels(*labels, mode).set(float(mode == state.mode))

    def publish(self) -> None:
        """Move all that was counted since the last time into the registry. Sums and counts stay exact."""
        served, self._served = self._served, []
        batches, self._batches = self._batches, []
        decisions, self._decisions = self._decisions, []
        self._publish_served(served)
        self._publish_batches(batches)
        observe_all(self._all.controller_decision.labels(*self._labels), decisions)
        self._publish_outcomes(served)

    def _publish_served(self, served: Sequence[Served]) -> None:
        everything, labels = self._all, self._labels
        for priority in {one.priority for one in served}:
            of_class = [one for one in served if one.priority == priority]
            observe_all(everything.request_duration.labels(*labels, priority), [one.total_s for one in of_class])
            observe_all(everything.queue_duration.labels(*labels, priority), [one.queue_s for one in of_class])
        observe_all(everything.request_macs.labels(*labels), [one.macs for one in served])
        observe_all(everything.request_activity.labels(*labels), [one.activity for one in served])
        observe_all(everything.request_budget.labels(*labels), [one.budget for one in served])
        everything.macs.labels(*labels).inc(sum([one.macs for one in served]))
        everything.macs_dense.labels(*labels).inc(sum([one.macs_dense for one in served]))
        everything.cap_hits.labels(*labels).inc(sum([one.cap_hits for one in served]))
        on_time = [one.quality_expected or 0.0 for one in served if one.on_time]
        everything.slo_attained.labels(*labels).inc(len(on_time))
        everything.served_accuracy.labels(*labels).inc(sum(on_time))

    def _publish_batches(self, batches: Sequence[BatchCost]) -> None:
        """Triton's per-request durations count the time of a batch once for each of its requests."""
        everything, labels = self._all, self._labels
        observe_all(everything.compute_duration.labels(*labels), [one.compute_s for one in batches])
        everything.batches.labels(*labels).inc(len(batches))
        everything.rows.labels(*labels).inc(sum([one.rows for one in batches]))
        everything.input_seconds.labels(*labels).inc(sum([one.requests * one.input_s for one in batches]))
        everything.infer_seconds.labels(*labels).inc(sum([one.requests * one.compute_s for one in batches]))
        everything.output_seconds.labels(*labels).inc(sum([one.requests * one.output_s for one in batches]))

    def _publish_outcomes(self, served: Sequence[Served]) -> None:
        everything, labels = self._all, self._labels
        outcomes, self._outcomes = self._outcomes, Tally()
        sheds, self._sheds = self._sheds, Tally()
        for one in served:
            outcomes[one.priority, Outcome.OK if one.on_time else Outcome.LATE] += 1
        for (priority, outcome), count in outcomes.items():
            everything.requests.labels(*labels, priority, outcome.value).inc(count)
        for reason, count in sheds.items():
            everything.shed.labels(*labels, reason).inc(count)
        missable = sum([count for (_, outcome), count in outcomes.items() if outcome is not Outcome.CANCELLED])
        everything.slo_requests.labels(*labels).inc(missable)


def observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    """`histogram.observe` for many values at once; prometheus_client has no public call for that."""
    if not values:
        return
    array = np.asarray(values)
    buckets = np.searchsorted(histogram._upper_bounds, array)  # type: ignore[attr-defined]
    for i, count in enumerate(np.bincount(buckets).tolist()):
        if count:
            histogram._buckets[i].inc(count)
    histogram._sum.inc(float(array.sum()))
