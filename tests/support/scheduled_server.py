"""The protocol app with the real scheduler, law and metrics on real sockets, for one small model."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from models.interface import ServableModel
from service.api.application import OipApp
from service.api.auth import AllowAll, Scope
from service.api.http import ExtraRoute
from service.control.policy import DrainFeasible
from service.control.profile import ServiceProfile, fit_profile
from service.host.operator_routes import MetricsRoute
from service.host.standalone import Address, serve
from service.inference.dataplane import Dataplane
from service.inference.readiness import Readiness
from service.inference.repository import LiveRepository
from service.scheduling.profiler import Effort, measure
from service.scheduling.scheduler import Scheduler
from service.scheduling.worker import ThreadWorkers, Workers
from service.telemetry.metrics import Metrics


class OneModel:
    """A ModelSource of one model."""

    def __init__(self, model: ServableModel) -> None:
        self._model = model

    def versions(self) -> Mapping[str, Sequence[str]]:
        return {self._model.spec.name: [self._model.spec.version]}

    def load(self, name: str, version: str) -> ServableModel:
        return self._model


@dataclass(frozen=True)
class ScheduledServer:
    address: Address
    scheduler: Scheduler
    profile: ServiceProfile


@asynccontextmanager
async def scheduled_server(
    model: ServableModel, workers: Workers | None = None, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[ScheduledServer]:
    """Serve `model` on free ports, profiled on the spot, until the context is left. clock: of the scheduler alone."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, [model.spec.default_deadline_s])
    scheduler = Scheduler(DrainFeasible(), workers or ThreadWorkers(1), metrics, clock=clock)

    profile = fit_profile(measure(model, Effort(0.2))).profile

    async def host(loaded: ServableModel) -> None:
        scheduler.add_model(loaded, profile)

    repository = LiveRepository(OneModel(model), host, scheduler.remove_model)
    await repository.load_all()
    route = ExtraRoute("/metrics", ("GET",), Scope.METRICS, MetricsRoute(scheduler.publish_metrics, registry, None))
    app = OipApp(Dataplane(repository, scheduler, Readiness()), AllowAll(), extra_routes=(route,))
    try:
        async with serve(app) as address:
            yield ScheduledServer(address, scheduler, profile)
    finally:
        scheduler.close()
