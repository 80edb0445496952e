"""uvicorn's HTTP protocol with the bounds it lacks: slow or endless headers, too many connections, errors as JSON."""

from __future__ import annotations

import asyncio
from typing import Any

import httptools

from service.host.gated_protocol import GatedProtocol


class HeadersTooLarge(httptools.HttpParserError):  # type: ignore[misc]
    """Stops the parser; answered with 431."""


class BoundedProtocol(GatedProtocol):
    """`uvicorn.Config(http=partial(BoundedProtocol, inside))`."""

    _header_timer: asyncio.TimerHandle | None = None
    _header_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            self._answer(b"503 Service Unavailable", b"too many connections")
            return
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        if self._header_timer is None:
            self._await_headers()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._headers_arrived()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        if self._header_bytes > self._limits.max_header_bytes:
            self._answer(b"431 Request Header Fields Too Large", b"the request's headers are too large")
        else:
            self._answer(b"400 Bad Request", b"malformed HTTP request")

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self._limits.max_header_bytes:
            raise HeadersTooLarge

    def _await_headers(self) -> None:
        self._header_timer = self.loop.call_later(self._limits.header_timeout_s, self._too_slow)

    def _headers_arrived(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        self._answer(b"408 Request Timeout", b"the request's headers took too long")

    def _answer(self, status: bytes, message: bytes) -> None:
        self._headers_arrived()
        body = b'{"error":"' + message + b'"}'
        head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, len(body)) + body)
        self.transport.close()
