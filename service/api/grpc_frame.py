"""The gRPC frame around every RPC: bytes in, bytes out, authorization, one place where errors become statuses."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from service.api.around import Around, nothing_around
from service.api.arrivals import Arrivals
from service.api.auth import Authorizer, Scope
from service.api.call_context import CallContext
from service.api.gate import Gate
from service.api.grpc_codec import CallFacts
from service.api.http import new_request_id, request_id_of
from service.api.status import refusal
from service.errors import InvalidRequest, Overloaded, PayloadTooLarge
from service.inference.limits import Limits

INFER = "ModelInfer"


@dataclass(frozen=True, slots=True)
class Rpc:
    """handler: (request message, facts) -> answer message, or for a stream (messages, facts) -> messages."""

    scope: Scope
    request: Any
    handler: Callable[..., Any]
    streams: bool = False


class GrpcFrame:
    """Runs RPCs by (service, method) on raw bytes."""

    def __init__(
        self,
        rpcs: Mapping[tuple[str, str], Rpc],
        authorize: Authorizer,
        limits: Limits,
        around: Around = nothing_around,
        arrivals: Arrivals | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._gate = gate
        self._arrivals = arrivals or Arrivals()
        self._rpcs = dict(rpcs)
        self._around = around
        self._authorize = authorize
        self._limits = limits

    def methods(self, service: str) -> dict[str, bool]:
        """Method -> whether it streams, of one service."""
        return {method: rpc.streams for (owner, method), rpc in self._rpcs.items() if owner == service}

    async def unary(self, service: str, method: str, data: bytes, context: CallContext) -> bytes:
        if method == INFER and self._gate is not None and self._gate.shut:
            try:
                self._gate.rpc(data, context)
            except Overloaded as surplus:
                _fail(context, surplus, new_request_id())
                return b""
        rpc = self._rpcs[service, method]
        facts = self._facts(context)
        with self._around(method, facts.request_id, facts.headers):
            try:
                self._admit(rpc, facts)
                answer = await rpc.handler(self._parse(rpc, data), facts)
            except Exception as error:
                _fail(context, error, facts.request_id)
                return b""
        context.finish(None, "", _trailing(facts.request_id))
        return bytes(answer.SerializeToString())

    async def stream(
        self, service: str, method: str, requests: AsyncIterator[bytes], context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        rpc = self._rpcs[service, method]
        facts = self._facts(context)
        with self._around(method, facts.request_id, facts.headers):
            try:
                self._admit(rpc, facts)
                # closing: a client that leaves between two answers ends the work behind them now, not at collection
                async with aclosing(rpc.handler(self._parse_all(rpc, requests), facts)) as answers:
                    async for answer in answers:
                        yield bytes(answer.SerializeToString())
            except Exception as error:
                _fail(context, error, facts.request_id)
                return
        context.finish(None, "", _trailing(facts.request_id))

    def _facts(self, context: CallContext) -> CallFacts:
        headers, remaining_s = context.headers(), context.time_remaining()
        arrival_s = self._arrivals.of(headers)
        # counted by the transport from now on, by us from the arrival
        deadline_s = None if remaining_s is None else remaining_s + time.monotonic() - arrival_s
        return CallFacts(headers, request_id_of(headers), arrival_s, deadline_s)

    def _admit(self, rpc: Rpc, facts: CallFacts) -> None:
        if rpc.scope is not Scope.HEALTH:
            facts.tenant = self._authorize(facts.headers, rpc.scope).tenant

    async def _parse_all(self, rpc: Rpc, requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for data in requests:
            yield self._parse(rpc, data)

    def _parse(self, rpc: Rpc, data: bytes) -> Any:
        if len(data) > self._limits.max_body_bytes:
            raise PayloadTooLarge(f"the message has {len(data)} bytes, at most {self._limits.max_body_bytes} are taken")
        try:
            return rpc.request.FromString(data)
        except DecodeError:
            raise InvalidRequest(f"the message is not a valid {rpc.request.DESCRIPTOR.name}") from None


Handler = Callable[[Any, CallFacts], Awaitable[Any]]


def _trailing(request_id: str) -> list[tuple[str, str]]:
    return [("x-request-id", request_id)]


def _fail(context: CallContext, error: Exception, request_id: str) -> None:
    refused = refusal(error, request_id)
    trailing = _trailing(request_id)
    if refused.retry_after_s is not None:
        trailing.append(("grpc-retry-pushback-ms", str(max(1, round(refused.retry_after_s * 1000)))))
        trailing.append(("retry-after", refused.retry_after_header))
    context.finish(refused.grpc, refused.message.encode(errors="replace").decode(), trailing)
