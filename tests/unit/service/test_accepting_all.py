"""A server of the event loop takes all connections that wait, not one a turn."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop

from service.host.accepting import accept_all
from service.host.standalone import listen

CLIENTS = 60
TURNS = 5  # far fewer than clients


async def turns_of(greedy: bool) -> int:
    """How many of CLIENTS waiting connections are made within TURNS turns of the loop."""
    loop = asyncio.get_running_loop()
    if greedy:
        accept_all(loop)
        accept_all(loop)  # twice is once
    made: list[asyncio.BaseTransport] = []

    class Seen(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    listener = listen("127.0.0.1", 0)
    server = await loop.create_server(Seen, sock=listener, backlog=128)
    address = listener.getsockname()
    clients = [socket.create_connection(address) for _ in range(CLIENTS)]  # the kernel keeps them
    for _ in range(TURNS):
        await asyncio.sleep(0)
    count = len(made)
    for transport in made:
        transport.close()
    for client in clients:
        client.close()
    server.close()
    await server.wait_closed()
    with pytest.raises(ConnectionRefusedError):  # nobody listens any more, not even a duplicate
        socket.create_connection(address)
    return count


def test_all_are_accepted_at_once() -> None:
    assert uvloop.run(turns_of(greedy=True)) == CLIENTS


def test_the_loop_alone_takes_one_a_turn() -> None:
    """If this fails, libuv accepts all by itself again, and `service.host.accepting` can go."""
    assert uvloop.run(turns_of(greedy=False)) <= TURNS
