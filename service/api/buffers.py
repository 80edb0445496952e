"""How many bytes of requests are in memory over all connections, and work too long for the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

from service.errors import Overloaded

P = ParamSpec("P")
T = TypeVar("T")

# From here on, decoding or compressing may take milliseconds (a BYTES element costs a Python step, a list of numbers a
# scan): it moves to a thread, so that other requests and health probes are answered meanwhile.
OFF_LOOP_FROM_BYTES = 1 << 18


class Buffers:
    """The bytes that requests hold; the sum is bounded."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.held_bytes = 0

    def hold(self) -> Hold:
        return Hold(self)

    def take(self, size: int) -> None:
        if self.held_bytes + size > self._max_bytes:
            raise Overloaded("the requests in work fill the memory set aside for them", reason="memory")
        self.held_bytes += size

    def give_back(self, size: int) -> None:
        self.held_bytes -= size


class Hold:
    """Context manager: what one request holds is given back when the request ends."""

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._size = 0

    def add(self, size: int) -> None:
        """Raises Overloaded when all requests together would hold too much."""
        self._buffers.take(size)
        self._size += size

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._buffers.give_back(self._size)


async def off_loop(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call here if `size` bytes are few, in a thread otherwise."""
    if size < OFF_LOOP_FROM_BYTES:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)
