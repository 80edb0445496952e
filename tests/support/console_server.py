"""The protocol app with the console mounted, over two tiny models and the real metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from service.api.application import OipApp
from service.api.auth import AllowAll, Authorizer
from service.console.console import Console
from service.console.live import LiveFeed
from service.console.routes import console_routes
from service.console.source import DataplaneSource
from service.telemetry.metrics import Metrics
from service.telemetry.model_metrics import ModelMetrics, Served
from service.types import Completion, Work
from tests.support.oip_server import OipServer
from tests.support.tiny_gated import TinyEmbedder, TinyGated
from tests.support.tiny_models import MemorySource


class CountingObserver:
    """Writes answers into the service's own metric families, as the scheduler does."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._models: dict[tuple[str, str], ModelMetrics] = {}

    def answered(self, work: Work, completion: Completion, latency_s: float) -> None:
        served = Served(
            priority="normal",
            queue_s=completion.queue_s,
            total_s=latency_s,
            on_time=completion.deadline_met,
            budget=completion.budget,
            activity=completion.activity,
            macs=completion.macs,
            macs_dense=completion.macs_dense,
            quality_expected=completion.quality_expected or 0.0,
        )
        self._of(work.model, work.version).count_served([served])

    def refused(self, model: str, version: str, error: BaseException, latency_s: float) -> None:
        self._of(model, version).count_error("normal")

    def publish(self) -> None:
        for metrics in self._models.values():
            metrics.publish()

    def _of(self, model: str, version: str) -> ModelMetrics:
        if (model, version) not in self._models:
            self._models[model, version] = ModelMetrics(self._metrics, model, version)
        return self._models[model, version]


def console_server(authorize: Authorizer | None = None) -> OipServer:
    registry = CollectorRegistry()
    models = {("tiny-fashion", "1"): TinyGated, ("tiny-letters", "1"): TinyEmbedder}
    observer = CountingObserver(Metrics(registry))
    server = OipServer(MemorySource(models), observers=[observer])
    feed = LiveFeed(observer.publish, registry.collect)
    console = Console(DataplaneSource(server.dataplane, server.repository), feed)
    server.app = OipApp(server.dataplane, authorize or AllowAll(), extra_routes=console_routes(console))
    return server
