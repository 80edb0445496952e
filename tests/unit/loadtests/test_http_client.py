"""The generator's HTTP client against servers that behave, and that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from loadtests.answers import Answer, Outcome
from loadtests.http_client import HttpClient, HttpParser

Reply = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Reads whole requests and lets `reply` write. connections: how many were opened; bodies: what came."""

    def __init__(self, reply: Reply) -> None:
        self.connections = 0
        self.tasks: list[asyncio.Task[None] | None] = []
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self._reply = reply

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.tasks.append(asyncio.current_task())
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.split("Content-Length:")[1].split()[0])
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(length))
                await self._reply(len(self.bodies) - 1, writer)
        except asyncio.IncompleteReadError:
            writer.close()


def answered(status: str, headers: str = "", body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def echoed(status: int, headers: object, body: bytes) -> Answer:
    return Answer(Outcome.OK, {"status": status, "body": body})


@asynccontextmanager
async def served(
    reply: Reply, timeout_s: float = 30.0, parse: HttpParser = echoed
) -> AsyncIterator[tuple[Server, HttpClient]]:
    server = Server(reply)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    bodies = [(f"request {number}".encode(), 7) for number in range(10)]
    client = HttpClient(f"http://127.0.0.1:{port}/base", "/infer", bodies, timeout_s, {"x-key": "k"}, parse)
    try:
        yield server, client
    finally:
        await client.close()
        listener.close()
        await asyncio.gather(*filter(None, server.tasks))


async def well(number: int, writer: asyncio.StreamWriter) -> None:
    writer.write(answered("200 OK", body=b"answer %d" % number))


async def test_one_after_the_other_share_a_connection_and_many_at_once_do_not() -> None:
    async with served(well) as (server, client):
        for number in range(3):
            assert (await client.send(number)).parameters["body"] == b"answer %d" % number
        assert server.connections == 1
        assert server.bodies == [b"request 0", b"request 1", b"request 2"]
        assert server.heads[0].startswith("POST /base/infer HTTP/1.1\r\n")
        assert "Inference-Header-Content-Length: 7\r\n" in server.heads[0] and "x-key: k\r\n" in server.heads[0]
        await asyncio.gather(*(client.send(number) for number in range(8)))
        assert 2 <= server.connections <= 8
        assert sorted(server.bodies[3:]) == [b"request %d" % number for number in range(8)]


async def test_an_answer_in_pieces_is_one_answer() -> None:
    async def slowly(number: int, writer: asyncio.StreamWriter) -> None:
        for byte in answered("200 OK", body=b"piecemeal"):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async with served(slowly) as (_, client):
        assert (await client.send(0)).parameters["body"] == b"piecemeal"


async def test_a_connection_that_is_to_be_closed_is_not_used_again() -> None:
    async def once(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answered("503 Busy", "Connection: close\r\n"))

    async with served(once) as (server, client):
        for _ in range(3):
            assert (await client.send(0)).parameters["status"] == 503
        assert server.connections == 3


@pytest.mark.parametrize("written", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"nonsense\r\n\r\n"])
async def test_half_an_answer_or_none_is_a_lost_request_and_the_next_one_is_served(written: bytes) -> None:
    async def badly(number: int, writer: asyncio.StreamWriter) -> None:
        if number:
            await well(number, writer)
        else:
            writer.write(written)
            writer.close()

    async with served(badly) as (_, client):
        assert (await client.send(0)).outcome is Outcome.LOST
        assert (await client.send(1)).outcome is Outcome.OK


async def test_silence_is_a_lost_request_after_the_timeout() -> None:
    async def never(number: int, writer: asyncio.StreamWriter) -> None:
        return

    async with served(never, timeout_s=0.05) as (_, client):
        answer = await client.send(0)
    assert answer.outcome is Outcome.LOST
    assert "no answer within 0.05 s" in answer.detail


async def test_nobody_listening_is_a_lost_request() -> None:
    async with served(well) as (_, client):
        pass
    answer = await client.send(0)
    assert answer.outcome is Outcome.LOST and "ConnectionRefusedError" in answer.detail
    await client.close()


async def test_an_answer_that_cannot_be_read_is_an_error_and_keeps_its_connection() -> None:
    def strict(status: int, headers: object, body: bytes) -> Answer:
        raise ValueError("not JSON")

    async with served(well, parse=strict) as (server, client):
        for _ in range(2):
            answer = await client.send(0)
            assert answer.outcome is Outcome.ERROR and "not JSON" in answer.detail
        assert server.connections == 1
