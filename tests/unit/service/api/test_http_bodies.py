"""Reading, inflating and compressing bodies, piece by piece, without a server."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import zlib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.http_body import accepted_encoding, compress, inflate, read_body
from service.errors import Cancelled, InvalidRequest, PayloadTooLarge, RequestTooSlow, UnsupportedEncoding
from service.inference.limits import Limits

LIMITS = Limits(max_body_bytes=3 << 20, max_chunks=10, body_timeout_s=0.05, max_inflate_ratio=20)


def receiver(*messages: dict[str, Any]) -> Any:
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    return receive


def piece(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def read(*messages: dict[str, Any], headers: Mapping[str, str] | None = None) -> bytes:
    return await read_body(receiver(*messages), headers or {}, LIMITS)


async def test_pieces_are_joined() -> None:
    assert await read(piece(b"", False)) == b""
    assert await read(piece(b"a"), piece(b""), piece(b"bc", False)) == b"abc"


@pytest.mark.parametrize(
    ("messages", "headers", "error"),
    [
        ([piece(b"")] * 12, {}, PayloadTooLarge),
        ([piece(bytes(2 << 20))] * 3, {}, PayloadTooLarge),
        ([piece(bytes(4 << 20), False)], {}, PayloadTooLarge),
        ([], {"content-length": "9" * 30}, PayloadTooLarge),
        ([], {"content-length": "-5"}, InvalidRequest),
        ([piece(b"a", False)], {"content-encoding": "br"}, UnsupportedEncoding),
        ([piece(b"a")], {}, RequestTooSlow),
        ([piece(b"a"), {"type": "http.disconnect"}], {}, Cancelled),
    ],
)
async def test_bodies_that_are_refused(messages: list[Any], headers: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        await read(*messages, headers=headers)


@settings(deadline=None)
@given(st.binary(max_size=2000), st.sampled_from(["gzip", "deflate"]))
def test_what_was_compressed_inflates(body: bytes, encoding: str) -> None:
    packed = asyncio.run(compress(body, encoding))
    assert inflate(packed, encoding, LIMITS) == body
    assert (gzip.decompress if encoding == "gzip" else zlib.decompress)(packed) == body


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_inflate_or_are_refused(body: bytes, encoding: str) -> None:
    with contextlib.suppress(InvalidRequest):  # anything else fails the test
        inflate(body, encoding, LIMITS)


async def test_large_bodies_leave_the_event_loop() -> None:
    body = bytes(range(256)) * 4096
    packed = await compress(body, "gzip")
    assert gzip.decompress(packed) == body
    noise = zlib.compress(b"".join(i.to_bytes(4, "little") for i in range(1 << 18)), 1)
    assert len(await read(piece(noise, False), headers={"content-encoding": "deflate"})) == 1 << 20


def test_bombs_stop_early() -> None:
    with pytest.raises(PayloadTooLarge, match="inflates more than 20 times"):
        inflate(zlib.compress(bytes(2 << 20)), "deflate", LIMITS)
    with pytest.raises(PayloadTooLarge, match="larger than"):
        inflate(zlib.compress(bytes(8 << 20)), "deflate", Limits(max_body_bytes=3 << 20, max_inflate_ratio=10**6))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("gzip;q=0.1, deflate;q=0.9", "deflate"),
        ("*", "gzip"),
        ("gzip;q=0, *;q=0.5", "deflate"),
        ("identity;q=1, gzip;q=0.5", None),
        ("GZIP ; Q=0.5", "gzip"),
        ("br", None),
    ],
)
def test_accepted_encoding(header: str | None, expected: str | None) -> None:
    assert accepted_encoding(header, 5000, LIMITS) == expected
    assert accepted_encoding(header, LIMITS.compress_min_bytes - 1, LIMITS) is None
    assert accepted_encoding(header, LIMITS.compress_max_bytes + 1, LIMITS) is None
