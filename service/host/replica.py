"""ServiceReplica: the protocol app with its scheduler and repository, as one replica hosts it; knows no server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from service.api.application import OipApp, ShortWay
from service.api.call_context import CallContext
from service.api.gate import Gate
from service.control.set_points import SetPoints
from service.engine.client import Engine
from service.host.node_metrics import NodeMetrics
from service.inference.limits import Limits
from service.inference.readiness import Readiness
from service.scheduling.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Parts:
    """What a replica is made of; the composition root makes them."""

    app: OipApp
    scheduler: Scheduler
    readiness: Readiness
    node_metrics: NodeMetrics
    engine: Engine | None = None


class ServiceReplica:
    """configure: durable set-points of the serve config; steer: those an operator sent, which win until reset."""

    def __init__(self, parts: Parts, durable: SetPoints) -> None:
        self._parts = parts
        self._started_with = durable
        self._durable = durable
        self._operator = SetPoints()

    @property
    def set_points(self) -> SetPoints:
        """Those in force."""
        return self._operator if self._operator.version else self._durable

    @property
    def app(self) -> OipApp:
        return self._parts.app

    @property
    def gate(self) -> Gate:
        return self._parts.app.gate

    @property
    def limits(self) -> Limits:
        return self._parts.app.limits

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        await self._parts.app.asgi(scope, receive, send)

    def short_way(self, path: str) -> ShortWay | None:
        return self._parts.app.short_way(path)

    async def unary(self, service: str, method: str, data: bytes, context: CallContext) -> bytes:
        return await self._parts.app.grpc.unary(service, method, data, context)

    def stream(
        self, service: str, method: str, requests: AsyncIterator[bytes], context: CallContext
    ) -> AsyncIterator[bytes]:
        return self._parts.app.grpc.stream(service, method, requests, context)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Ray Serve's `user_config`. Raises InvalidRequest for a field that is unknown or out of range."""
        self._durable = self._started_with.changed(config)
        self._apply()

    def steer(self, set_points: SetPoints) -> None:
        self._operator = set_points
        self._apply()

    def publish_metrics(self, port: int) -> None:
        """Serve this node's metrics on a port of their own; 0 = none."""
        if port:
            self._parts.node_metrics.start(port)

    def check_health(self) -> None:
        if not self._parts.scheduler.healthy():
            raise RuntimeError("a batch has been running for too long: the replica must be replaced")
        if self._parts.engine is not None and not self._parts.engine.healthy:
            raise RuntimeError("the model process died again and again: the replica must be replaced")

    def autoscaling_stats(self) -> dict[str, float]:
        return self._parts.scheduler.demand()

    async def close(self) -> None:
        """Answer what is in work, then end the worker threads and the model process."""
        self._parts.readiness.set(False)
        await self._parts.scheduler.drain()
        await self._parts.node_metrics.close()
        self._parts.scheduler.close()
        if self._parts.engine is not None:
            await asyncio.to_thread(self._parts.engine.close)

    def _apply(self) -> None:
        self._parts.scheduler.apply_setpoint(self.set_points)
        self._parts.readiness.set(not self.set_points.draining)
