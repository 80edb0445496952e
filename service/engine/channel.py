"""The event loop's own line to the model process: a batch goes out and comes back without any thread in between.

A thread that waits for the process would compete with the loop for the interpreter at every batch, and lose: under
load its few microseconds of work wait for milliseconds.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import cast

from service.engine import wire

_LENGTH = struct.Struct("!i")  # as multiprocessing.connection frames messages below 2 GiB
_HUGE = struct.Struct("!q")
MAX_SHORT = 0x7FFFFFFF


class LineLost(Exception):
    """The model process is gone."""


class Line(asyncio.Protocol):
    """One question at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[wire.Plain] | None = None
        self._transport: asyncio.Transport | None = None
        self.lost = False

    @staticmethod
    async def open(end: socket.socket) -> Line:
        _, line = await asyncio.get_running_loop().create_connection(Line, sock=end)
        return line

    def ask(self, *message: wire.Plain) -> asyncio.Future[wire.Plain]:
        """The future (status, result). It raises LineLost if the process ends."""
        answer: asyncio.Future[wire.Plain] = asyncio.get_running_loop().create_future()
        if self.lost or self._transport is None:
            answer.set_exception(LineLost())
            return answer
        self._answer = answer
        data = wire.dumps(message)
        size = len(data)
        head = _LENGTH.pack(size) if size <= MAX_SHORT else _LENGTH.pack(-1) + _HUGE.pack(size)
        self._transport.writelines((head, data))
        return answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not derived from it

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        start, size = 4, -1
        if len(self._buffer) >= start:
            size = _LENGTH.unpack_from(self._buffer)[0]
        if size == -1 and len(self._buffer) >= start + 8:
            size, start = _HUGE.unpack_from(self._buffer, 4)[0], 12
        if size >= 0 and len(self._buffer) >= start + size:
            message = wire.loads(memoryview(self._buffer)[start : start + size])
            self._buffer = bytearray()
            answer, self._answer = self._answer, None
            if answer is not None and not answer.done():
                answer.set_result(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LineLost())
