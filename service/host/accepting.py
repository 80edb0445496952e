"""Accepts every connection that waits, not one a turn of the event loop.

libuv takes one connection a turn since 1.45 (libuv/libuv#3696), and uvloop sits on it. Under load a turn is long and
the proxy in front opens a connection for each request it has no idle one for: they queue, with their requests, in the
kernel, where no scheduler sees them and no deadline passes. Measured at twice a replica's capacity: 2,000 requests
waited there for up to 8 s, while the loop believed that each had just arrived.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

A_TURN = 256  # accepting one takes tens of microseconds; those accepted must be read in between

Factory = Callable[[], asyncio.BaseProtocol]


def accept_all(loop: asyncio.AbstractEventLoop) -> None:
    """Make the servers that are created on `loop` from now on accept all that waits at once. Harmless when repeated."""
    if isinstance(getattr(loop.create_server, "__self__", None), _Greedy):
        return
    loop.create_server = _Greedy(loop).create_server  # type: ignore[method-assign]


class _Greedy:
    """Holds the loop's own way to create a server."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._create: Callable[..., Any] = loop.create_server

    async def create_server(self, protocol_factory: Factory, *args: Any, **options: Any) -> Any:
        server = await self._create(protocol_factory, *args, **options)
        if options.get("ssl") is not None:  # a handshake is for the loop's own transport to make
            return server
        return GreedyServer(self._loop, server, protocol_factory)


class GreedyServer:
    """The loop's server with a second pair of eyes on its listening sockets; what it does not know, the server does."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: asyncio.Server, factory: Factory) -> None:
        self._loop, self._server, self._factory = loop, server, factory
        self._connecting: set[asyncio.Task[Any]] = set()
        # NOTE: duplicates, because a loop does not let anybody else watch a descriptor that it watches itself
        self._listeners = [socket.socket(fileno=os.dup(one.fileno())) for one in server.sockets]
        for listener in self._listeners:
            listener.setblocking(False)
            loop.add_reader(listener, self._accept, listener)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def close(self) -> None:
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()
        self._server.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(A_TURN):
            try:
                connection, _address = listener.accept()
            except OSError:  # nobody waits, the other pair of eyes was faster, or no descriptor is left
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._connect(connection))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, connection)
        except OSError:  # gone again
            connection.close()
