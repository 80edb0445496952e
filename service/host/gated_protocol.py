"""uvicorn's HTTP protocol with short ways: a flood's surplus is refused unread, inference skips ASGI on both protocols.

What uvicorn does for each request (a cycle, flow control, messages there and back) costs as much CPU as decoding,
admitting and answering a small inference. It still does it for every other route, for large bodies and for whatever is
not plain: chunks, Expect, compressed bodies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.application import ShortWay
from service.api.gate import MORE, Gate
from service.api.http import decode_headers, error_answer, http_answer, new_request_id
from service.api.status import refusal
from service.errors import RequestTooSlow
from service.host.rpc_handlers import Rpcs
from service.host.rpc_over_http import PATH, PREFIX_BYTES, Body, HttpCall, run
from service.inference.limits import Limits

MAX_HOLD_S = 1.0
MAX_SHORT_BYTES = 1 << 20  # larger bodies need flow control
_LONG_WAY = frozenset({"transfer-encoding", "content-encoding", "expect", "upgrade"})


@dataclass(frozen=True, slots=True)
class Inside:
    """What is behind the protocol. gate: None = nothing is refused unread.

    short_way: what answers inference requests to a path; None = it must be routed first, or is another route.
    """

    rpcs: Rpcs
    gate: Gate | None
    limits: Limits
    short_way: Callable[[str], ShortWay | None]


class _NoEvent:
    def set(self) -> None:
        """Nobody waits."""


class _ShortCycle:
    """Stands where uvicorn keeps a request's cycle, so that what a client pipelines behind it waits for its answer."""

    __slots__ = ("disconnected", "keep_alive", "response_complete")
    message_event = _NoEvent()

    def __init__(self) -> None:
        self.disconnected, self.response_complete, self.keep_alive = False, False, True


class GatedProtocol(HttpToolsProtocol):  # type: ignore[misc]
    """`uvicorn.Config(http=partial(GatedProtocol, inside))`."""

    def __init__(self, inside: Inside, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._inside, self._gate, self._limits = inside, inside.gate, inside.limits
        self._within_message = False
        self._held = b""  # the beginning of a request that the gate has not seen the end of
        self._timer: asyncio.TimerHandle | None = None
        self._work: Callable[[Body], Coroutine[Any, Any, bytes]] | None = None  # what the body being read is for
        self._body = bytearray()
        self._size = 0
        self._own = _ShortCycle()
        self._running: asyncio.Task[None] | None = None

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

    def on_message_begin(self) -> None:
        self._within_message = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        post = self.parser.get_method() == b"POST"
        if post and self.url == PATH:
            if self._busy:  # HTTP/1.1 allows it; nobody who carries RPCs over it does it
                self.transport.close()
                return
            self._read(partial(run, self._inside.rpcs, HttpCall(self.headers), self._limits), self.transport.close)
            return
        way = self._inside.short_way(self.url.decode("latin-1")) if post and not self._busy else None
        headers = decode_headers(self.headers) if way is not None else {}
        if way is None or not self._is_plain(headers):
            super().on_headers_complete()
        else:
            self._read(partial(_post, way, headers), self._refuse_slow)

    def _is_plain(self, headers: dict[str, str]) -> bool:
        length = headers.get("content-length", "")
        return (
            len(length) < 8
            and length.isdecimal()
            and int(length) <= min(MAX_SHORT_BYTES, self._limits.max_body_bytes)
            and _LONG_WAY.isdisjoint(headers)
            and bool(self.parser.should_keep_alive())
        )

    def _read(self, work: Callable[[Body], Coroutine[Any, Any, bytes]], late: Callable[[], None]) -> None:
        """Collect the body for `work`; call `late` if it stops coming."""
        self._work, self._body, self._size = work, bytearray(), 0
        self.cycle = self._own = _ShortCycle()
        self._wait(self._limits.body_timeout_s, partial(self._give_up, 0, late))

    def on_body(self, body: bytes) -> None:
        if self._work is None:
            super().on_body(body)
            return
        self._size += len(body)
        if self._size <= self._limits.max_body_bytes + PREFIX_BYTES:  # of what is too long, only the size matters
            self._body += body

    def on_message_complete(self) -> None:
        self._within_message = False
        if self._work is None:
            super().on_message_complete()
            return
        work, self._work = self._work, None
        self._take_back()
        self._running = self.loop.create_task(self._work_and_write(work(Body(bytes(self._body), self._size))))
        self.tasks.add(self._running)  # what the server waits for when it ends
        self._running.add_done_callback(self.tasks.discard)

    async def _work_and_write(self, work: Coroutine[Any, Any, bytes]) -> None:
        """Written here rather than when the task is done, which would be after another turn of a busy loop."""
        answer = await work
        self._running = None
        if self.transport.is_closing():
            return
        self._own.response_complete = True
        self.transport.write(answer)
        self.on_response_complete()
        if not self._own.keep_alive:
            self.transport.close()

    def _refuse_slow(self) -> None:
        request_id = new_request_id()
        error = RequestTooSlow(f"no data for {self._limits.body_timeout_s:g} s inside the body")
        self.transport.write(http_answer(error_answer(refusal(error, request_id), request_id), request_id))
        self.transport.close()

    @property
    def _busy(self) -> bool:
        """Whether the last request that was read is still to be answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _let_through(self) -> None:
        """Whoever sends slowly is for the parser, with its own limits of time."""
        super().data_received(self._take_back())

    def _give_up(self, seen: int, late: Callable[[], None]) -> None:
        """Nothing of the body came since `seen` bytes had: its own limit of time is reached."""
        if self._size == seen:
            late()
        else:
            self._wait(self._limits.body_timeout_s, partial(self._give_up, self._size, late))

    def _wait(self, seconds: float, late: Callable[[], None]) -> None:
        self._timer = self.loop.call_later(seconds, late)

    def _take_back(self) -> bytes:
        held, self._held = self._held, b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return held


async def _post(way: ShortWay, headers: dict[str, str], body: Body) -> bytes:
    return await way(headers, body.data)


def gated_protocol(inside: Inside) -> Callable[..., GatedProtocol]:
    """For a server behind a proxy, which bounds headers and connections."""
    return partial(GatedProtocol, inside)
