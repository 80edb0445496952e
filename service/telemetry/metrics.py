"""Every metric's name, labels and buckets. The registry is injected; several replica processes of a node add up.

Prometheus rules: base units, `_total` counters, low cardinality, at most 300 series a model and replica.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version

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
        self.controller_watchdog = counter("controller_watchdog_total", "Decisions that a watchdog kept at the floor")
        self.shadow_verdicts = counter(
            "shadow_verdicts_total", "What the watched law would have done in shadow mode", (*_MODEL, "verdict")
        )
        self.desired_replicas = gauge("desired_replicas", "Replicas needed at the target budget", "livemostrecent")
        self.worker_deaths = counter(
            "worker_deaths_total", "Worker threads that died under this model and were replaced"
        )
        self.build_info = gauge("build_info", "1, labelled with versions", "livemostrecent", ("version", "python"))
        self.build_info.labels(_own_version(), platform.python_version()).set(1)
        self.profile_info = gauge(
            "profile_info", "1, labelled with the profile in use", "livemostrecent", (*_MODEL, "profile", "source")
        )


def _own_version() -> str:
    try:
        return version("swan-serve")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
