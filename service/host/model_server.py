"""The one Ray Serve deployment: the replica that receives a request, over HTTP or gRPC, runs it itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

from ray import serve
from uvicorn.config import HTTP_PROTOCOLS

from service.api.application import ShortWay
from service.api.call_context import CallContext
from service.api.gate import Gate
from service.config import Settings
from service.control.set_points import SetPoints
from service.host import shortcut
from service.host.accepting import accept_all
from service.host.coordinator import ActorSource, SetPointSource, follow
from service.host.gated_protocol import Inside, gated_protocol
from service.host.mounting import STREAMS, UNARY, RawMessage, ReplicaContext
from service.inference.limits import Limits


class Replica(Protocol):
    """What a replica hosts: the protocol app, free of Ray, with what operators and the autoscaler want of it."""

    @property
    def gate(self) -> Gate | None:
        """Refuses the surplus of a flood before it is parsed."""

    @property
    def limits(self) -> Limits: ...

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None: ...

    def short_way(self, path: str) -> ShortWay | None:
        """What answers inference requests to `path` by their headers and body, once one was routed."""

    async def unary(self, service: str, method: str, data: bytes, context: CallContext) -> bytes: ...

    def stream(
        self, service: str, method: str, requests: AsyncIterator[bytes], context: CallContext
    ) -> AsyncIterator[bytes]: ...

    def configure(self, config: Mapping[str, Any]) -> None:
        """Durable settings from Ray Serve's `user_config`. Raises InvalidRequest for what it does not know."""

    def steer(self, set_points: SetPoints) -> None:
        """Set-points that an operator sent to all replicas."""

    def check_health(self) -> None:
        """Raises if the replica must be replaced."""

    def autoscaling_stats(self) -> dict[str, float]:
        """What the autoscaling policy needs to know of this replica."""

    async def close(self) -> None: ...


ReplicaFactory = Callable[[Settings, SetPointSource], Awaitable[Replica]]


class AsgiEntry:
    """NOTE: an object, not a bound method: uvicorn would take a bound method for an ASGI 2 app."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._replica.asgi(scope, receive, send)


class ModelServer:
    """Adapts a Replica to what Ray Serve calls. Ready when the factory has returned: models loaded, warm, profiled."""

    async def __init__(self, settings: Settings, factory: ReplicaFactory) -> None:  # type: ignore[misc]
        source = ActorSource()
        self._replica = await factory(settings, source)
        shortcut.host(self._replica)
        accept_all(asyncio.get_running_loop())  # Ray Serve makes its HTTP server on it next
        # and takes uvicorn's default protocol
        replica = self._replica
        inside = Inside(replica, replica.gate, replica.limits, replica.short_way)
        HTTP_PROTOCOLS["auto"] = gated_protocol(inside)
        self._following = asyncio.create_task(follow(source, self._replica.steer))

    def __serve_build_asgi_app__(self) -> AsgiEntry:
        return AsgiEntry(self._replica)

    def reconfigure(self, config: Mapping[str, Any]) -> None:
        self._replica.configure(config)

    def check_health(self) -> None:
        self._replica.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        return self._replica.autoscaling_stats()

    async def __del__(self) -> None:
        """Ray Serve awaits this after the last request in flight has been answered."""
        self._following.cancel()
        await self._replica.close()


def _unary(service: str, name: str) -> Callable[..., Awaitable[RawMessage]]:
    async def method(self: ModelServer, request: bytes, grpc_context: Any) -> RawMessage:
        return RawMessage(await self._replica.unary(service, name, request, ReplicaContext(grpc_context)))

    method.__name__ = name
    return method


def _stream(service: str, name: str) -> Callable[..., AsyncIterator[RawMessage]]:
    async def method(self: ModelServer, stream: Any, grpc_context: Any) -> AsyncIterator[RawMessage]:
        async for payload in self._replica.stream(service, name, stream, ReplicaContext(grpc_context)):
            yield RawMessage(payload)

    method.__name__ = name
    return method


for _name, _service in UNARY.items():
    setattr(ModelServer, _name, _unary(_service, _name))
for _name, _service in STREAMS.items():
    setattr(ModelServer, _name, _stream(_service, _name))


def deployment() -> Any:
    """ModelServer as a Ray Serve deployment; replicas, CPUs and autoscaling come from the serve config file.

    max_ongoing_requests is high because health, metadata and metrics share it; admission is the scheduler's own.
    """
    ingress = serve.ingress()(ModelServer)
    return serve.deployment(
        ingress,
        name="ModelServer",
        max_ongoing_requests=4096,
        logging_config={"enable_access_log": False},
        graceful_shutdown_wait_loop_s=0.1,
    )
