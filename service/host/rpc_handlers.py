"""The protocol app's RPCs as grpc.aio method handlers on raw bytes, for whichever grpc.aio server a replica has."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

import grpc

from service.api.call_context import CallContext


class Rpcs(Protocol):
    """Runs RPCs by service and method: the protocol app's frame, or a replica that forwards to it."""

    async def unary(self, service: str, method: str, data: bytes, context: CallContext) -> bytes: ...

    def stream(
        self, service: str, method: str, requests: AsyncIterator[bytes], context: CallContext
    ) -> AsyncIterator[bytes]: ...


class AioContext:
    """CallContext on grpc.aio."""

    __slots__ = ("_context",)

    def __init__(self, context: Any) -> None:
        self._context = context

    def headers(self) -> dict[str, str]:
        return {key: value for key, value in self._context.invocation_metadata() if isinstance(value, str)}

    def time_remaining(self) -> float | None:
        remaining: float | None = self._context.time_remaining()
        return remaining

    def finish(self, code: grpc.StatusCode | None, details: str, trailing: Sequence[tuple[str, str]]) -> None:
        self._context.set_trailing_metadata(tuple(trailing))
        if code is not None:
            self._context.set_code(code)
            self._context.set_details(details)


def add_service(server: Any, name: str, rpcs: Rpcs, methods: Mapping[str, bool], service: str = "") -> None:
    """Mount one service. name: on the wire; service: by which `rpcs` knows it. methods: method -> whether it streams.

    No serializers, so bytes. A server stream is mounted as stream to stream, which is the same on the wire.
    """
    handlers = {
        method: _stream(rpcs, service or name, method) if streams else _unary(rpcs, service or name, method)
        for method, streams in methods.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    server.add_registered_method_handlers(name, handlers)


def _unary(rpcs: Rpcs, service: str, method: str) -> grpc.RpcMethodHandler[bytes, bytes]:
    async def handle(data: bytes, context: Any) -> bytes:
        return await rpcs.unary(service, method, data, AioContext(context))

    return grpc.unary_unary_rpc_method_handler(handle)


def _stream(rpcs: Rpcs, service: str, method: str) -> grpc.RpcMethodHandler[bytes, bytes]:
    async def handle(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        answers: Any = rpcs.stream(service, method, requests, AioContext(context))
        async with contextlib.aclosing(answers):
            async for answer in answers:
                yield answer

    return grpc.stream_stream_rpc_method_handler(handle)
