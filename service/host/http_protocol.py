"""uvicorn's HTTP protocol with the bounds it lacks: slow or endless headers, too many connections, errors as JSON."""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.gate import MORE, Gate
from service.inference.limits import Limits

MAX_HOLD_S = 1.0


class GatedProtocol(HttpToolsProtocol):  # type: ignore[misc]
    """Refuses the surplus of a flood before it is parsed. `gate` is set by whoever makes the class."""

    gate: Gate
    _within_message = False
    _held = b""  # the beginning of a request that the gate has not seen the end of
    _release: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        if not self._held and (not self.gate.shut or self._within_message or self._busy):
            super().data_received(data)
            return
        data = self._take_back() + data
        answer = self.gate.http(data)
        if answer is None:
            super().data_received(data)
        elif answer is MORE:
            self._held = data
            self._release = self.loop.call_later(MAX_HOLD_S, self._let_through)
        else:  # the keep-alive timer runs on, from the last request that was read
            self.transport.write(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._take_back()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._within_message = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self._within_message = False
        super().on_message_complete()

    @property
    def _busy(self) -> bool:
        """Whether the last request that was read is still to be answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _let_through(self) -> None:
        """Whoever sends slowly is for the parser, with its own limits of time."""
        super().data_received(self._take_back())

    def _take_back(self) -> bytes:
        held, self._held = self._held, b""
        if self._release is not None:
            self._release.cancel()
            self._release = None
        return held


def gated_protocol(gate: Gate) -> Any:
    """The protocol class for a server behind a proxy, which bounds headers and connections."""
    return type("GatedProtocol", (GatedProtocol,), {"gate": gate})


class HeadersTooLarge(httptools.HttpParserError):  # type: ignore[misc]
    """Stops the parser; answered with 431."""


def bounded_protocol(limits: Limits, gate: Gate) -> Any:
    """The protocol class for `uvicorn.Config(http=...)`."""

    class BoundedProtocol(gated_protocol(gate)):  # type: ignore[misc]
        _header_timer: asyncio.TimerHandle | None = None
        _header_bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.max_connections:
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
            if self._header_bytes > limits.max_header_bytes:
                self._answer(b"431 Request Header Fields Too Large", b"the request's headers are too large")
            else:
                self._answer(b"400 Bad Request", b"malformed HTTP request")

        def _count(self, size: int) -> None:
            self._header_bytes += size
            if self._header_bytes > limits.max_header_bytes:
                raise HeadersTooLarge

        def _await_headers(self) -> None:
            self._header_timer = self.loop.call_later(limits.header_timeout_s, self._too_slow)

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

    return BoundedProtocol
