"""uvicorn's HTTP protocol with two short ways: a flood's surplus is refused unread, ModelInfer over HTTP/1.1 is run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.gate import MORE, Gate
from service.host.rpc_handlers import Rpcs
from service.host.rpc_over_http import PATH, PREFIX_BYTES, Body, HttpCall, run
from service.inference.limits import Limits

MAX_HOLD_S = 1.0


class GatedProtocol(HttpToolsProtocol):  # type: ignore[misc]
    """`uvicorn.Config(http=partial(GatedProtocol, rpcs, gate, limits))`. gate: None = nothing is refused unread."""

    def __init__(self, rpcs: Rpcs, gate: Gate | None, limits: Limits, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._rpcs, self._gate, self._limits = rpcs, gate, limits
        self._within_message = False
        self._held = b""  # the beginning of a request that the gate has not seen the end of
        self._timer: asyncio.TimerHandle | None = None
        self._body: bytearray | None = None  # of the RPC that is being read
        self._size = 0
        self._running: asyncio.Task[bytes] | None = None
        self._closing = False

    def data_received(self, data: bytes) -> None:
        gate = self._gate
        if gate is None or (not self._held and (not gate.shut or self._within_message or self._busy)):
            super().data_received(data)
            return
        data = self._take_back() + data
        answer = gate.http(data)
        if answer is None:
            super().data_received(data)
        elif answer is MORE:
            self._held = data
            self._wait(MAX_HOLD_S, self._let_through)
        else:  # the keep-alive timer runs on, from the last request that was read
            self.transport.write(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._take_back()
        if self._running is not None:
            self._running.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self._running is None:
            super().shutdown()
        else:
            self._closing = True

    def on_message_begin(self) -> None:
        self._within_message = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self.url != PATH or self.parser.get_method() != b"POST":
            super().on_headers_complete()
        elif self._busy:  # HTTP/1.1 allows it; nobody who carries RPCs over it does it
            self.transport.close()
        else:
            self._body, self._size = bytearray(), 0
            self._wait(self._limits.body_timeout_s, partial(self._give_up, 0))

    def on_body(self, body: bytes) -> None:
        if self._body is None:
            super().on_body(body)
            return
        self._size += len(body)
        if self._size <= self._limits.max_body_bytes + PREFIX_BYTES:  # of what is too long, only the size matters
            self._body += body

    def on_message_complete(self) -> None:
        self._within_message = False
        if self._body is None:
            super().on_message_complete()
            return
        body, self._body = bytes(self._body), None
        self._take_back()
        call = HttpCall(self.headers)
        self._running = self.loop.create_task(run(self._rpcs, call, Body(body, self._size), self._limits))
        self.tasks.add(self._running)  # what the server waits for when it ends
        self._running.add_done_callback(self._write_answer)

    def _write_answer(self, running: asyncio.Task[bytes]) -> None:
        self.tasks.discard(running)
        self._running = None
        if running.cancelled() or self.transport.is_closing():
            return
        self.transport.write(running.result())
        self.on_response_complete()
        if self._closing:
            self.transport.close()

    @property
    def _busy(self) -> bool:
        """Whether the last request that was read is still to be answered."""
        return self._running is not None or (self.cycle is not None and not self.cycle.response_complete)

    def _let_through(self) -> None:
        """Whoever sends slowly is for the parser, with its own limits of time."""
        super().data_received(self._take_back())

    def _give_up(self, seen: int) -> None:
        """Nothing of the body came since `seen` bytes had: close, as its own limit of time says."""
        if self._size == seen:
            self.transport.close()
        else:
            self._wait(self._limits.body_timeout_s, partial(self._give_up, self._size))

    def _wait(self, seconds: float, late: Callable[[], None]) -> None:
        self._timer = self.loop.call_later(seconds, late)

    def _take_back(self) -> bytes:
        held, self._held = self._held, b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return held


def gated_protocol(rpcs: Rpcs, gate: Gate | None, limits: Limits) -> Callable[..., GatedProtocol]:
    """For a server behind a proxy, which bounds headers and connections."""
    return partial(GatedProtocol, rpcs, gate, limits)
