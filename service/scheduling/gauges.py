"""Publishes metrics and the controller's gauges every half second while there is traffic, and once more after it."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from service.control.autoscale import ScaleSettings
from service.control.types import Policy
from service.scheduling.demand import workers_needed
from service.scheduling.hosted import HostedModel
from service.telemetry.model_metrics import ControllerState
from swan_runtime.report import ComputeReport

PERIOD_S = 0.5


class GaugePublisher:
    """Metrics are only read by scrapes, so bringing them up to date with every request would be waste."""

    def __init__(self, policy: Policy, models: Mapping[str, HostedModel], num_workers: int) -> None:
        self._policy = policy
        self._num_workers = num_workers
        self._models = models
        self._handle: asyncio.TimerHandle | None = None
        self._touched = False

    def touch(self) -> None:
        """Something changed: publish soon."""
        self._touched = True
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(PERIOD_S, self._tick)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def publish(self) -> None:
        """Set every gauge now."""
        busy = workers_needed(self._policy, self._models) / (ScaleSettings().utilisation * self._num_workers)
        desired = float(max(1, math.ceil(busy)))
        for hosted in self._models.values():
            hosted.metrics.publish()
            hosted.metrics.set_controller(self._state(hosted, desired))
            hosted.metrics.set_pending(hosted.num_pending)
            if hosted.last_reports:
                hosted.metrics.set_layers(layer_activity(hosted.last_reports))

    def _tick(self) -> None:
        self._handle = None
        self.publish()
        if self._touched or any(hosted.num_pending for hosted in self._models.values()):
            self._touched = False
            self._handle = asyncio.get_running_loop().call_later(PERIOD_S, self._tick)

    def _state(self, hosted: HostedModel, desired: float) -> ControllerState:
        state = self._policy.state(hosted.key)
        budget = hosted.decided_budget  # in shadow mode, what would have been served
        edge = "floor" if budget <= hosted.low < hosted.high else "ceiling" if budget >= hosted.high else ""
        rows, max_batch = hosted.queue.rows, max(1, hosted.model.spec.max_batch_size)
        batch_s = hosted.profile.seconds(budget, min(max(rows, 1), max_batch)) * state.service_ratio
        return ControllerState(
            budget=budget,
            threshold=hosted.threshold_at(budget),
            kappa=state.service_ratio,
            sigma=state.margin_sigma,
            queue_requests=len(hosted.queue),
            backlog_s=batch_s * -(-rows // max_batch),
            arrival_rate=state.arrival_rate,
            saturated=edge,
            mode=hosted.mode,
            desired_replicas=desired,
        )


def layer_activity(reports: Sequence[ComputeReport]) -> dict[str, float]:
    """Share of each layer's units that ran, over these rows."""
    active: defaultdict[str, int] = defaultdict(int)
    total: defaultdict[str, int] = defaultdict(int)
    for report in reports:
        for layer in report.layers:
            active[layer.name] += layer.units_active
            total[layer.name] += layer.units_total
    return {name: active[name] / total[name] for name in total if total[name]}
