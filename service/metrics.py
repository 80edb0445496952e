"""Every metric's name, labels and buckets. The registry is injected; several replica processes of a node add up.

Prometheus rules: base units, `_total` counters, low cardinality, at most 300 series a model and replica.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_EDGES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
BATCH_EDGES_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
DECISION_EDGES_S = (5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 5e-4, 1e-3)
MACS_EDGES = tuple(float(2**power) for power in range(14, 43, 2))  # 16 thousand .. 4.4 trillion
RATIO_EDGES = tuple(round(0.05 * step, 2) for step in range(1, 21))

_MODEL = ("model", "version")
_CLASS = ("model", "version", "priority")


class Outcome(StrEnum):
    """How a request ended; each request ends in exactly one."""

    OK = "ok"
    LATE = "late"
    SHED = "shed"
    ERROR = "error"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ControllerState:
    """What the controller of one model does now. saturated: 'floor', 'ceiling' or ''."""

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


@dataclass(frozen=True, slots=True)
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


MODES = ("auto", "manual", "freeze", "shadow")


class Metrics:
    """All families of one process. slo_s: the models' default deadlines; each is a bucket edge of its own."""

    def __init__(self, registry: CollectorRegistry, slo_s: Iterable[float] = ()) -> None:
        self.registry = registry
        edges = tuple(sorted({*LATENCY_EDGES_S, *slo_s}))

        def counter(name: str, text: str, labels: tuple[str, ...] = _MODEL) -> Counter:
            return Counter(f"swan_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = _MODEL) -> Histogram:
            return Histogram(f"swan_{name}", text, labels, buckets=buckets, registry=registry)

        def gauge(name: str, text: str, mode: str, labels: tuple[str, ...] = _MODEL) -> Gauge:
            return Gauge(f"swan_{name}", text, labels, registry=registry, multiprocess_mode=mode)  # type: ignore[arg-type]

        self.request_duration = histogram(
            "request_duration_seconds", "First byte seen to answer, answered requests", edges, _CLASS
        )
        self.queue_duration = histogram(
            "queue_duration_seconds", "First byte seen to dispatch, answered requests", edges, _CLASS
        )
        self.compute_duration = histogram("compute_duration_seconds", "Model time of a batch", BATCH_EDGES_S)
        self.input_seconds = counter("compute_input_seconds_total", "Joining requests into batches, per request")
        self.infer_seconds = counter("compute_infer_seconds_total", "Model time, counted for each request of a batch")
        self.output_seconds = counter("compute_output_seconds_total", "Splitting batches, per request")
        self.rows = counter("rows_total", "Rows computed")
        self.batches = counter("batches_total", "Batches computed")
        self.request_macs = histogram("request_compute_macs", "MACs executed for a request", MACS_EDGES)
        self.macs = counter("compute_macs_total", "MACs executed for answered requests, gates included")
        self.macs_dense = counter("dense_equivalent_macs_total", "MACs the same requests would cost without gates")
        self.cap_hits = counter("cap_hits_total", "Times a row wanted more units than its layer's cap")
        self.request_activity = histogram(
            "request_activity_ratio", "Share of gated units that ran for a request", RATIO_EDGES
        )
        self.request_budget = histogram("request_budget_ratio", "Budget a request was answered with", RATIO_EDGES)
        self.layer_activity = gauge(
            "layer_activity_ratio", "Share of a layer's units that ran, sampled", "livemostrecent", (*_MODEL, "layer")
        )
        self.requests = counter("requests_total", "Requests by outcome", (*_CLASS, "outcome"))
        self.shed = counter("shed_total", "Requests refused or dropped before any work", (*_MODEL, "reason"))
        self.slo_attained = counter("slo_attained_total", "Requests answered within their deadline")
        self.slo_requests = counter(
            "slo_requests_total", "Requests that had a deadline to meet; cancelled ones left out"
        )
        self.served_accuracy = counter(
            "served_accuracy_total", "Expected quality summed over on-time answers; / slo_requests = effective accuracy"
        )
        self.pending = gauge("pending_requests", "Requests queued or computing", "livesum")
        self.controller_budget = gauge("controller_budget_ratio", "Budget of the last dispatch", "livemostrecent")
        self.controller_threshold = gauge(
            "controller_threshold", "First layer's score threshold at that budget", "livemostrecent"
        )
        self.controller_service_ratio = gauge(
            "controller_service_ratio", "kappa: actual over predicted batch time, smoothed", "livemostrecent"
        )
        self.controller_margin_sigma = gauge(
            "controller_margin_sigma", "Standard deviation of that ratio", "livemostrecent"
        )
        self.controller_queue = gauge("controller_queue_requests", "Requests queued", "livesum")
        self.controller_backlog = gauge(
            "controller_backlog_seconds", "Predicted time to drain the queue at the budget", "livesum"
        )
        self.controller_arrival_rate = gauge("controller_arrival_rate_per_second", "Arrivals, smoothed", "livesum")
        self.controller_saturated = gauge(
            "controller_saturated", "1 while the budget is at this edge", "livesum", (*_MODEL, "edge")
        )
        self.controller_mode = gauge(
            "controller_mode", "1 for the controller's mode", "livemostrecent", (*_MODEL, "mode")
        )
        self.controller_decision = histogram(
            "controller_decision_seconds", "Time to decide one dispatch", DECISION_EDGES_S
        )
        self.controller_watchdog = counter("controller_watchdog_total", "Falls to the floor by the watchdog")
        self.desired_replicas = gauge("desired_replicas", "Replicas needed at the target budget", "livemostrecent")
        self.shadow_agreement = gauge(
            "shadow_agreement_ratio", "Share of re-run answers equal to the full budget's", "livemostrecent"
        )
        self.worker_deaths = counter(
            "worker_deaths_total", "Worker threads that died under this model and were replaced"
        )
        self.build_info = gauge("build_info", "1, labelled with versions", "livemostrecent", ("version", "python"))
        self.profile_info = gauge(
            "profile_info", "1, labelled with the profile in use", "livemostrecent", (*_MODEL, "profile", "source")
        )

    def for_model(self, model: str, version: str) -> ModelMetrics:
        return ModelMetrics(self, model, version)


class ModelMetrics:
    """The series of one model version, looked up once: an update costs about a microsecond."""

    def __init__(self, metrics: Metrics, model: str, version: str) -> None:
        self._all = metrics
        self._labels = (model, version)
        labels = self._labels
        self._compute_duration = metrics.compute_duration.labels(*labels)
        self._input_seconds = metrics.input_seconds.labels(*labels)
        self._infer_seconds = metrics.infer_seconds.labels(*labels)
        self._output_seconds = metrics.output_seconds.labels(*labels)
        self._rows = metrics.rows.labels(*labels)
        self._batches = metrics.batches.labels(*labels)
        self._request_macs = metrics.request_macs.labels(*labels)
        self._macs = metrics.macs.labels(*labels)
        self._macs_dense = metrics.macs_dense.labels(*labels)
        self._activity = metrics.request_activity.labels(*labels)
        self._budget = metrics.request_budget.labels(*labels)
        self._slo_attained = metrics.slo_attained.labels(*labels)
        self._slo_requests = metrics.slo_requests.labels(*labels)
        self._accuracy = metrics.served_accuracy.labels(*labels)
        self._decision = metrics.controller_decision.labels(*labels)
        self.pending = metrics.pending.labels(*labels)
        self._by_class: dict[str, tuple[Histogram, Histogram]] = {}
        self._outcomes: dict[tuple[str, Outcome], Counter] = {}

    def count_batch(self, requests: int, rows: int, input_s: float, compute_s: float, output_s: float) -> None:
        """A batch that was computed; Triton's per-request durations count its time once for each request."""
        self._compute_duration.observe(compute_s)
        self._batches.inc()
        self._rows.inc(rows)
        self._input_seconds.inc(requests * input_s)
        self._infer_seconds.inc(requests * compute_s)
        self._output_seconds.inc(requests * output_s)

    def count_served(self, served: Sequence[Served]) -> None:
        """Answered requests of one batch: histograms request by request, counters by their sums."""
        for one in served:
            duration, queue = self._histograms(one.priority)
            duration.observe(one.total_s)
            queue.observe(one.queue_s)
            self._request_macs.observe(one.macs)
            self._activity.observe(one.activity)
            self._budget.observe(one.budget)
            self._outcome(one.priority, Outcome.OK if one.on_time else Outcome.LATE).inc()
        self._macs.inc(sum(one.macs for one in served))
        self._macs_dense.inc(sum(one.macs_dense for one in served))
        if cap_hits := sum(one.cap_hits for one in served):
            self._all.cap_hits.labels(*self._labels).inc(cap_hits)
        self._slo_requests.inc(len(served))
        on_time = [one.quality_expected or 0.0 for one in served if one.on_time]
        if on_time:
            self._slo_attained.inc(len(on_time))
            self._accuracy.inc(sum(on_time))

    def count_shed(self, priority: str, reason: str) -> None:
        """Refused or dropped: it missed its objective. reason: a ShedReason or `draining`."""
        self._all.shed.labels(*self._labels, reason).inc()
        self._outcome(priority, Outcome.SHED).inc()
        self._slo_requests.inc()

    def count_error(self, priority: str) -> None:
        self._outcome(priority, Outcome.ERROR).inc()
        self._slo_requests.inc()

    def count_cancelled(self, priority: str) -> None:
        self._outcome(priority, Outcome.CANCELLED).inc()

    def count_watchdog(self) -> None:
        self._all.controller_watchdog.labels(*self._labels).inc()

    def count_worker_death(self) -> None:
        self._all.worker_deaths.labels(*self._labels).inc()

    def observe_decision(self, seconds: float) -> None:
        self._decision.observe(seconds)

    def set_layers(self, activity: Mapping[str, float]) -> None:
        for layer, value in activity.items():
            self._all.layer_activity.labels(*self._labels, layer).set(value)

    def set_profile(self, profile: str, source: str) -> None:
        """profile: its hash; source: measured, cached or none."""
        self._all.profile_info.labels(*self._labels, profile, source).set(1)

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

    def _histograms(self, priority: str) -> tuple[Histogram, Histogram]:
        found = self._by_class.get(priority)
        if found is None:
            labels = (*self._labels, priority)
            found = (self._all.request_duration.labels(*labels), self._all.queue_duration.labels(*labels))
            self._by_class[priority] = found
        return found

    def _outcome(self, priority: str, outcome: Outcome) -> Counter:
        found = self._outcomes.get((priority, outcome))
        if found is None:
            found = self._all.requests.labels(*self._labels, priority, outcome.value)
            self._outcomes[(priority, outcome)] = found
        return found
