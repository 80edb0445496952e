"""Inference past ASGI: the same answers as the long way, in order, with the same limits."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator

import orjson
import pytest

from service.inference.limits import Limits
from tests.support.oip_server import OipServer
from tests.support.raw_http import connect, exchange, read_to_end, status

BODY = orjson.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "INT32", "data": [[3, 4]]}]})
SLOW = orjson.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "INT32", "data": [[7]]}]})


@pytest.fixture(scope="module")
def server() -> Iterator[OipServer]:
    with OipServer(limits=Limits(body_timeout_s=0.3)).running() as running:
        for model in ("identity_int32", "slow"):  # a path is routed once; then its requests are short
            exchange(running, [post(model, b"{}", "Connection: close")])
        yield running


def post(model: str, body: bytes = BODY, *headers: str) -> bytes:
    lines = [f"POST /v2/models/{model}/infer HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def without_times(answer: bytes) -> bytes:
    """Nor its length, which `ask` has read by: a time may have a digit more."""
    return re.sub(rb"\"(queue|compute)_us\":\d+|dur=[0-9.]+|content-length: \d+", b"", answer)


def ask(server: OipServer, message: bytes, answers: int = 1) -> list[bytes]:
    """As many answers as asked for, on a connection that stays open."""
    got, rest = [], b""
    with connect(server) as connection:
        connection.sendall(message)
        while len(got) < answers:
            head, end, body = rest.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            if end and length is not None and len(body) >= int(length[1]):
                got.append(head + end + body[: int(length[1])])
                rest = body[int(length[1]) :]
            else:
                part = connection.recv(65536)
                assert part, f"the connection was closed after {got!r} {rest!r}"
                rest += part
    return got


def let_one_go(server: OipServer) -> None:
    assert server.slow.entered.acquire(timeout=30)
    server.slow.release.release()


@pytest.mark.parametrize("body", [BODY, b"{", b'{"inputs": []}'], ids=["good", "malformed", "refused"])
def test_both_ways_answer_alike(server: OipServer, body: bytes) -> None:
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    same = "X-Request-Id: mine"
    lines = ["POST /v2/models/identity_int32/infer HTTP/1.1", "Host: test", same, "Transfer-Encoding: chunked", "", ""]
    messages = post("identity_int32", body, same), _head(lines) + chunked
    (short,), (long,) = (ask(server, message) for message in messages)
    assert without_times(short) == without_times(long)


def test_what_is_pipelined_is_answered_in_order(server: OipServer) -> None:
    get = b"GET /v2/health/live HTTP/1.1\r\nHost: test\r\n\r\n"
    messages = post("slow", SLOW) + get + post("identity_int32") + get + post("identity_int32", b"{")
    threading.Thread(target=let_one_go, args=(server,)).start()
    answers = ask(server, messages, 5)
    assert [status(answer) for answer in answers] == [200, 200, 200, 200, 400]
    assert b'"slow"' in answers[0]
    assert answers[1].endswith(b'{"live":true}')
    assert b"identity_int32" in answers[2]


def test_a_body_that_stops_coming_is_given_up(server: OipServer) -> None:
    with connect(server) as connection:
        connection.sendall(post("identity_int32")[:-3])
        answer = read_to_end(connection)
    assert status(answer) == 408
    assert b"x-request-id: " in answer
    assert orjson.loads(answer.partition(b"\r\n\r\n")[2])["error"].startswith("no data for 0.3 s")


def test_a_client_that_leaves_ends_its_work(server: OipServer) -> None:
    with connect(server) as connection:
        connection.sendall(post("slow", SLOW))
        assert server.slow.entered.acquire(timeout=30)
        assert server.call(tasks_of_requests)
    while server.call(tasks_of_requests):
        pass
    server.slow.release.release()


def tasks_of_requests() -> int:
    return sum("_work_and_write" in repr(task.get_coro()) for task in asyncio.all_tasks())


def _head(lines: list[str]) -> bytes:
    return "\r\n".join(lines).encode()
