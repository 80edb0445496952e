"""How Ray Serve's gRPC servers reach a replica: raw bytes both ways, so that no proxy parses or pickles a message.

In the replica's own process the server calls it directly (`shortcut`); a proxy calls it through Ray Serve.
NVIDIA's generated servicer cannot be mounted: its message classes do not pickle between proxy and replica.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc

from service.host.rpc_handlers import add_service
from service.host.shortcut import hosted

INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1.ServerReflection"
REFLECTION_ALPHA = "grpc.reflection.v1alpha.ServerReflection"
_INFERENCE_UNARY = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
)
# method -> service; Ray Serve picks a replica's method by the last part of the path alone
UNARY = {**dict.fromkeys(_INFERENCE_UNARY, INFERENCE), "Check": HEALTH}
STREAMS = {"ModelStreamInfer": INFERENCE, "Watch": HEALTH, "ServerReflectionInfo": REFLECTION}
DEADLINE_KEY = "swan-grpc-time-remaining"


class RawMessage:
    """What a mounted method returns: Serve asks a response for nothing but `SerializeToString`."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    def SerializeToString(self) -> bytes:  # noqa: N802
        return self.payload


class ReplicaContext:
    """What the protocol app needs of Ray Serve's context of one call."""

    __slots__ = ("_context", "_headers")

    def __init__(self, context: Any) -> None:
        self._context = context
        metadata = context.invocation_metadata()
        self._headers = {str(key): value for key, value in metadata if isinstance(value, str)}

    def headers(self) -> dict[str, str]:
        return self._headers

    def time_remaining(self) -> float | None:
        """Seconds to the client's deadline when the call arrived."""
        remaining = self._headers.get(DEADLINE_KEY)
        return float(remaining) if remaining is not None else None

    def finish(self, code: grpc.StatusCode | None, details: str, trailing: Sequence[tuple[str, str]]) -> None:
        self._context.set_trailing_metadata(list(trailing))
        if code is not None:
            self._context.set_code(code)
            self._context.set_details(details)


def add_inference_service(servicer: Any, server: Any) -> None:
    """The Open Inference Protocol's service, for `grpc_servicer_functions`."""
    _add(servicer, server, INFERENCE, INFERENCE)


def add_health_service(servicer: Any, server: Any) -> None:
    """The standard health service that Kubernetes probes speak."""
    _add(servicer, server, HEALTH, HEALTH)


def add_reflection_service(servicer: Any, server: Any) -> None:
    """Server reflection in both versions. Ray Serve's own would not know our messages: they are in a private pool."""
    _add(servicer, server, REFLECTION, REFLECTION)
    _add(servicer, server, REFLECTION_ALPHA, REFLECTION)


def _add(servicer: Any, server: Any, name: str, service: str) -> None:
    methods = {method: False for method, owner in UNARY.items() if owner == service}
    methods |= {method: True for method, owner in STREAMS.items() if owner == service}
    replica = hosted()
    if replica is not None:
        server.add_passthrough_service(name)
        add_service(server, name, replica, methods, service)
        return
    handlers: dict[str, Any] = {
        method: (grpc.stream_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler)(
            getattr(servicer, method)
        )
        for method, streams in methods.items()
    }
    with _deadlines_as_metadata(server):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        server.add_registered_method_handlers(name, handlers)


@contextmanager
def _deadlines_as_metadata(server: Any) -> Iterator[None]:
    """Handlers that the server makes within carry the client's deadline on: Ray Serve's own context leaves it out."""
    factory = getattr(server, "service_handler_factory", None)
    if factory is None:
        yield
        return
    server.service_handler_factory = lambda service_method, streaming_type: _with_deadline(
        factory(service_method=service_method, streaming_type=streaming_type),
        streams=streaming_type.name.endswith("STREAM"),
    )
    try:
        yield
    finally:
        server.service_handler_factory = factory


def _with_deadline(handler: Callable[..., Any], streams: bool) -> Callable[..., Any]:
    if streams:

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            async for response in handler(request, _carry_deadline(context)):
                yield response

        return stream

    async def unary(request: Any, context: Any) -> Any:
        return await handler(request, _carry_deadline(context))

    return unary


def _carry_deadline(context: Any) -> Any:
    remaining = context.time_remaining()
    return context if remaining is None else _DeadlineContext(context, remaining)


class _DeadlineContext:
    """A grpc.aio context whose metadata tells the time that was left on arrival."""

    def __init__(self, context: Any, remaining_s: float) -> None:
        self._context = context
        self._metadata = (*context.invocation_metadata(), (DEADLINE_KEY, f"{remaining_s:.6f}"))

    def invocation_metadata(self) -> tuple[tuple[str, Any], ...]:
        return self._metadata

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)
