"""HTTP/1.1 over kept connections at a few tens of microseconds a request: no task, no future, no timer of its own.

What the generator spends is taken from the service on the same cores, so callbacks are worth their trouble here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import cast
from urllib.parse import urlsplit

import httptools

from loadtests.answers import Answer, Outcome, from_http
from loadtests.clients import Done

HttpParser = Callable[[int, Mapping[bytes, bytes], bytes], Answer]
SWEEP_S = 1.0  # between two looks for requests that wait too long


def lost(error: BaseException) -> Answer:
    return Answer(Outcome.LOST, {}, detail=f"{type(error).__name__}: {error}")


class _Connection(asyncio.Protocol):
    """One kept connection with at most one request under way; joins `idle` when its answer is complete."""

    def __init__(self, parse: HttpParser, idle: list[_Connection], open_: set[_Connection]) -> None:
        self._parse, self._idle, self._open = parse, idle, open_
        self._reader = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._complete = self._keep = False
        self._done: Done | None = None
        self.asked_at = 0.0  # by the loop's clock

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by class
        self._loop = asyncio.get_running_loop()
        self._open.add(self)

    @property
    def usable(self) -> bool:
        return not self._transport.is_closing()

    @property
    def waits(self) -> bool:
        return self._done is not None

    def request(self, message: bytes, done: Done) -> None:
        self._done, self.asked_at = done, self._loop.time()
        self._transport.write(message)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed_data(data)
        except httptools.HttpParserError as error:
            self.give_up(error)
            return
        if self._complete:
            self._complete = False
            self._answer()

    def on_message_begin(self) -> None:
        self._headers, self._body = {}, []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._keep = self._reader.should_keep_alive()
        self._complete = True  # NOTE: read outside of the parser, which would swallow what reading raises

    def _answer(self) -> None:
        try:
            answer = self._parse(self._reader.get_status_code(), self._headers, b"".join(self._body))
        except (ValueError, LookupError, TypeError) as error:
            answer = Answer(Outcome.ERROR, {}, detail=f"unreadable answer: {type(error).__name__}: {error}")
        done, self._done = self._done, None
        if self._keep:
            self._idle.append(self)
        else:
            self._transport.close()
        if done is not None:
            done(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self._end(exc or ConnectionError("connection closed"))

    def give_up(self, error: Exception) -> None:
        self._end(error)
        self._transport.abort()

    def _end(self, error: Exception) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(lost(error))

    def close(self) -> None:
        self._transport.close()


class HttpClient:
    """A growing pool of kept connections. bodies: (body, JSON header length or None).

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
        self._open: set[_Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    def _message(self, path: str, body: bytes, header: int | None) -> bytes:
        lines = [f"POST {path} HTTP/1.1", f"Host: {self._host}:{self._port}", f"Content-Length: {len(body)}"]
        if header is not None:
            lines.append(f"Inference-Header-Content-Length: {header}")
        lines += [f"{name}: {value}" for name, value in self._headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + body

    def start(self, index: int, done: Done) -> None:
        message = self._messages[index % len(self._messages)]
        if self._sweeper is None:
            self._sweep()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.request(message, done)
                return
        task = asyncio.get_running_loop().create_task(self._connect(message, done))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def send(self, index: int) -> Answer:
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.start(index, lambda answer: None if answered.done() else answered.set_result(answer))
        return await answered

    async def _connect(self, message: bytes, done: Done) -> None:
        loop = asyncio.get_running_loop()
        connecting = loop.create_connection(
            lambda: _Connection(self._parse, self._idle, self._open), self._host, self._port
        )
        try:
            _, connection = await asyncio.wait_for(connecting, self._timeout_s)
        except (OSError, TimeoutError) as error:
            done(lost(error))
        else:
            connection.request(message, done)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in list(self._open):
            if connection.waits and loop.time() - connection.asked_at > self._timeout_s:
                connection.give_up(TimeoutError(f"no answer within {self._timeout_s:g} s"))
        self._sweeper = loop.call_later(min(SWEEP_S, self._timeout_s / 4.0), self._sweep)

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in list(self._connecting):
            task.cancel()
        for connection in list(self._open):
            connection.close()
