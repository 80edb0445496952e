"""The standard gRPC services beside the protocol's: health checking, and reflection v1 with its twin v1alpha."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from service.api import proto
from service.api.auth import Scope
from service.api.grpc_codec import CallFacts
from service.api.grpc_frame import Rpc
from service.errors import NotFound
from service.inference.dataplane import Dataplane

_SERVICES = (proto.SERVICE, proto.HEALTH, proto.REFLECTION, proto.REFLECTION_ALPHA)
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3
_NOT_FOUND: int = grpc.StatusCode.NOT_FOUND.value[0]


class StandardServices:
    def __init__(self, dataplane: Dataplane) -> None:
        self._dataplane = dataplane

    def rpcs(self) -> dict[tuple[str, str], Rpc]:
        reflection = Rpc(Scope.HEALTH, proto.ServerReflectionRequest, self.reflect, True)
        return {
            (proto.HEALTH, "Check"): Rpc(Scope.HEALTH, proto.HealthCheckRequest, self.check),
            (proto.HEALTH, "Watch"): Rpc(Scope.HEALTH, proto.HealthCheckRequest, self.watch, True),
            (proto.REFLECTION, "ServerReflectionInfo"): reflection,
            (proto.REFLECTION_ALPHA, "ServerReflectionInfo"): reflection,
        }

    async def check(self, message: Any, facts: CallFacts) -> Any:
        status = self._status(message.service)
        if status == _SERVICE_UNKNOWN:
            raise NotFound("unknown service")
        return proto.HealthCheckResponse(status=status)

    async def watch(self, messages: AsyncIterator[Any], facts: CallFacts) -> AsyncIterator[Any]:
        """The status now and after every change, until the client leaves."""
        async for message in messages:
            while True:
                changed = self._dataplane.readiness.next_change
                yield proto.HealthCheckResponse(status=self._status(message.service))
                await changed.wait()

    async def reflect(self, messages: AsyncIterator[Any], facts: CallFacts) -> AsyncIterator[Any]:
        async for message in messages:
            answer = _reflect(message)
            answer.valid_host = message.host
            answer.original_request.CopyFrom(message)
            yield answer

    def _status(self, service: str) -> int:
        if service not in ("", *_SERVICES):
            return _SERVICE_UNKNOWN
        return _SERVING if self._dataplane.ready() else _NOT_SERVING


def _reflect(message: Any) -> Any:
    choice = message.WhichOneof("message_request")
    answer = proto.ServerReflectionResponse()
    if choice == "list_services":
        for name in _SERVICES:
            answer.list_services_response.service.add(name=name)
        return answer
    try:
        if choice == "file_by_filename":
            file = proto.POOL.FindFileByName(message.file_by_filename)  # type: ignore[no-untyped-call]
        elif choice == "file_containing_symbol":
            symbol = message.file_containing_symbol.replace(proto.REFLECTION_ALPHA, proto.REFLECTION)
            file = proto.POOL.FindFileContainingSymbol(symbol)  # type: ignore[no-untyped-call]
        else:
            raise KeyError(choice)
    except KeyError:
        answer.error_response.error_code = _NOT_FOUND
        answer.error_response.error_message = "not found"
        return answer
    answer.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
    return answer
