"""The protocol's messages in a private descriptor pool, so that `tritonclient.grpc` can live in the same process.

descriptors.binpb is compiled from the .proto files beside it by `make proto`.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1.ServerReflection"
REFLECTION_ALPHA = "grpc.reflection.v1alpha.ServerReflection"


def _load_pool() -> descriptor_pool.DescriptorPool:
    files = descriptor_pb2.FileDescriptorSet.FromString(
        resources.files(__name__).joinpath("descriptors.binpb").read_bytes()
    )
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())  # type: ignore[no-untyped-call]
    return pool


POOL = _load_pool()


def message_class(full_name: str) -> Any:
    """The class of a message of the private pool. Raises KeyError for an unknown name."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(full_name))  # type: ignore[no-untyped-call]


def __getattr__(name: str) -> Any:
    """`proto.ModelInferRequest` and its kin: looked up once, then a plain module attribute."""
    if not name[:1].isupper():
        raise AttributeError(name)
    try:
        found = message_class(f"{PACKAGE}.{name}")
    except KeyError:
        raise AttributeError(name) from None
    globals()[name] = found
    return found


HealthCheckRequest: Any = message_class("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse: Any = message_class("grpc.health.v1.HealthCheckResponse")
ServerReflectionRequest: Any = message_class("grpc.reflection.v1.ServerReflectionRequest")
ServerReflectionResponse: Any = message_class("grpc.reflection.v1.ServerReflectionResponse")
