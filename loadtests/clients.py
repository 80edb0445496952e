"""Two thin asyncio clients that cost the generator little: HTTP/1.1 over kept connections, gRPC with raw bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast
from urllib.parse import urlsplit

import grpc
import grpc.aio
import httptools

from loadtests.answers import Answer, Outcome, from_grpc, from_http

HttpParser = Callable[[int, Mapping[bytes, bytes], bytes], Answer]

REFUSED_CODES = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
BROKEN = ("failed to connect", "Connection reset", "Socket closed", "recvmsg:")  # gRPC's texts for its own UNAVAILABLE


class Client(Protocol):
    """Sends prepared request number `index` and reads the answer; never raises for what a service may do."""

    async def send(self, index: int) -> Answer: ...

    async def close(self) -> None: ...


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[tuple[int, dict[bytes, bytes], bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by class

    def request(self, message: bytes) -> asyncio.Future[tuple[int, dict[bytes, bytes], bytes]]:
        assert self.transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self.transport.write(message)
        return self._waiter

    @property
    def usable(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.connection_lost(ConnectionError(str(error)))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._headers.get(b"connection", b"").lower() == b"close" and self.transport is not None:
            self.transport.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result((self._parser.get_status_code(), self._headers, b"".join(self._body)))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionError("connection closed"))


class HttpClient:
    """HTTP/1.1 client over a growing pool of keep-alive connections. bodies: (body, JSON header length or None).

    path: of the inference route. parse: reads (status, lower-case headers, body) into an Answer.
    """

    def __init__(
        self,
        url: str,
        path: str,
        bodies: Sequence[tuple[bytes, int | None]],
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        parse: HttpParser = from_http,
    ) -> None:
        self._parse = parse
        self._headers = dict(headers or {})
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        full_path = parts.path.rstrip("/") + path
        self._messages = [self._message(full_path, body, header) for body, header in bodies]
        self._timeout_s = timeout_s
        self._idle: list[_Connection] = []
        self._all: list[_Connection] = []

    def _message(self, path: str, body: bytes, header: int | None) -> bytes:
        lines = [f"POST {path} HTTP/1.1", f"Host: {self._host}:{self._port}", f"Content-Length: {len(body)}"]
        if header is not None:
            lines.append(f"Inference-Header-Content-Length: {header}")
        lines += [f"{name}: {value}" for name, value in self._headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + body

    async def send(self, index: int) -> Answer:
        try:
            connection = await self._connection()
            status, headers, body = await asyncio.wait_for(
                connection.request(self._messages[index % len(self._messages)]), self._timeout_s
            )
        except (OSError, TimeoutError) as error:
            return Answer(Outcome.LOST, {}, detail=f"{type(error).__name__}: {error}")
        self._idle.append(connection)
        return self._parse(status, headers, body)

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port)
        self._all.append(connection)
        return connection

    async def close(self) -> None:
        for connection in self._all:
            if connection.transport is not None:
                connection.transport.close()


class GrpcClient:
    """ModelInfer with serialized requests, one channel."""

    def __init__(
        self, target: str, requests: Sequence[bytes], timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> None:
        self._metadata = tuple((headers or {}).items())
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.aio.insecure_channel(target, options=options)
        self._call = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        self._requests = requests
        self._timeout_s = timeout_s

    async def send(self, index: int) -> Answer:
        began = time.perf_counter()
        try:
            return from_grpc(
                await self._call(
                    self._requests[index % len(self._requests)], timeout=self._timeout_s, metadata=self._metadata
                )
            )
        except grpc.aio.AioRpcError as error:
            return _grpc_refusal(error, given_up=time.perf_counter() - began >= self._timeout_s)

    async def close(self) -> None:
        await self._channel.close()


def _grpc_refusal(error: grpc.aio.AioRpcError, given_up: bool) -> Answer:
    """given_up: by this client, whose own deadline has the code that a server's has."""
    code, details = error.code(), error.details() or ""
    pushback_ms = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
    if given_up or any(text in details for text in BROKEN):
        outcome = Outcome.LOST
    elif code in REFUSED_CODES and pushback_ms is not None:
        outcome = Outcome.REFUSED
    else:
        outcome = Outcome.EXPIRED if code is grpc.StatusCode.DEADLINE_EXCEEDED else Outcome.ERROR
    return Answer(outcome, {}, None, int(pushback_ms or 0) / 1e3, f"{code.name} {details}")
