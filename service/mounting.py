"""How Ray Serve's gRPC servers reach a replica: raw bytes both ways, so that no proxy parses or pickles a message.

NVIDIA's generated servicer cannot be mounted: its message classes do not pickle between proxy and replica.
"""

from __future__ import annotations

from typing import Any

import grpc

INFERENCE_SERVICE = "inference.GRPCInferenceService"
HEALTH_SERVICE = "grpc.health.v1.Health"
REFLECTION_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
UNARY_METHODS = (
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
STREAM_METHOD = "ModelStreamInfer"


class RawMessage:
    """What a mounted method returns: Serve asks a response for nothing but `SerializeToString`."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    def SerializeToString(self) -> bytes:  # noqa: N802
        return self.payload


def add_inference_service(servicer: Any, server: Any) -> None:
    """The Open Inference Protocol's service, for `grpc_servicer_functions`."""
    handlers = {name: grpc.unary_unary_rpc_method_handler(getattr(servicer, name)) for name in UNARY_METHODS}
    handlers[STREAM_METHOD] = grpc.stream_stream_rpc_method_handler(getattr(servicer, STREAM_METHOD))
    _add(server, INFERENCE_SERVICE, handlers)


def add_health_service(servicer: Any, server: Any) -> None:
    """The standard health service that Kubernetes probes speak."""
    handlers = {
        "Check": grpc.unary_unary_rpc_method_handler(servicer.Check),
        "Watch": grpc.unary_stream_rpc_method_handler(servicer.Watch),
    }
    _add(server, HEALTH_SERVICE, handlers)


def _add(server: Any, service: str, handlers: dict[str, Any]) -> None:
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    if hasattr(server, "add_registered_method_handlers"):
        server.add_registered_method_handlers(service, handlers)
