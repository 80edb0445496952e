"""Request bodies and answers on ASGI: bounded reading, bounded inflating, and compression where the client wants it."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from service.api.buffers import Hold, off_loop
from service.errors import Cancelled, InvalidRequest, PayloadTooLarge, RequestTooSlow, UnsupportedEncoding
from service.inference.limits import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_RATIO_FROM_BYTES = 1 << 20
_INFLATE_STEP_BYTES = 1 << 18
_EXPECTED_RATIO = 8
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_LEVEL = 1  # tensors compress badly: the fastest level saves nearly as much


async def read_body(receive: Receive, headers: Mapping[str, str], limits: Limits, hold: Hold | None = None) -> bytes:
    """The decompressed body, its bytes counted in `hold`.

    Raises PayloadTooLarge, RequestTooSlow, UnsupportedEncoding, InvalidRequest, Overloaded or Cancelled.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    declared = headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()):
        raise InvalidRequest("header 'Content-Length': expected digits")
    if len(declared) > 18 or int(declared) > limits.max_body_bytes:
        raise _too_large(limits)
    body = await _read(receive, limits, hold)
    # only now: an answer before the end of the body would close the connection under a client that is still sending
    if encoding not in ("identity", "", *_WINDOW_BITS):
        raise UnsupportedEncoding(f"content-encoding {encoding[:32]!r} is not offered; use gzip, deflate or none")
    if encoding not in _WINDOW_BITS:
        return body
    inflated = await off_loop(len(body) * _EXPECTED_RATIO, inflate, body, encoding, limits)
    if hold is not None:
        hold.add(len(inflated))
    return inflated


async def _read(receive: Receive, limits: Limits, hold: Hold | None) -> bytes:
    message = await _next(receive, limits, hold)
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limits.max_body_bytes:
            raise _too_large(limits)
        return body
    parts, size = [body], len(body)
    while message.get("more_body", False):
        message = await _next(receive, limits, hold)
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > limits.max_body_bytes:
            raise _too_large(limits)
        if len(parts) > limits.max_chunks:
            raise PayloadTooLarge(f"the body comes in more than {limits.max_chunks} pieces")
    return b"".join(parts)


async def _next(receive: Receive, limits: Limits, hold: Hold | None) -> Message:
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            message = await receive()
    except TimeoutError:
        raise RequestTooSlow(f"no data for {limits.body_timeout_s:g} s inside the body") from None
    if message["type"] == "http.disconnect":
        raise Cancelled("the client went away")
    if hold is not None:
        hold.add(len(message.get("body", b"")))
    return message


def inflate(body: bytes, encoding: str, limits: Limits) -> bytes:
    """Decompress step by step, so that a bomb is refused after a bounded amount of work. deflate is the zlib format."""
    engine = zlib.decompressobj(_WINDOW_BITS[encoding])
    parts: list[bytes] = []
    size, pending = 0, body
    try:
        while not engine.eof:
            part = engine.decompress(pending, _INFLATE_STEP_BYTES)
            pending = engine.unconsumed_tail
            if not part and not pending:
                break
            parts.append(part)
            size += len(part)
            if size > limits.max_body_bytes:
                raise _too_large(limits)
            if size > _RATIO_FROM_BYTES and size > limits.max_inflate_ratio * len(body):
                raise PayloadTooLarge(f"the body inflates more than {limits.max_inflate_ratio} times")
    except zlib.error:
        raise InvalidRequest(f"the body is not valid {encoding}") from None
    if not engine.eof or engine.unused_data:
        raise InvalidRequest(f"the body is not valid {encoding}: it is cut short or goes on after its end")
    return b"".join(parts)


def _too_large(limits: Limits) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limits.max_body_bytes} bytes; send less in one request")


def accepted_encoding(header: str | None, size: int, limits: Limits) -> str | None:
    """gzip, deflate or None for an answer of `size` bytes, by the quality values of Accept-Encoding."""
    if header is None or not limits.compress_min_bytes <= size <= limits.compress_max_bytes:
        return None
    weights: dict[str, float] = {}
    for item in header[:1024].split(","):
        name, _, parameters = item.partition(";")
        weights[name.strip().lower()] = _weight(parameters)
    anything = weights.get("*", 0.0)
    best = max(_WINDOW_BITS, key=lambda name: weights.get(name, anything))
    weight = weights.get(best, anything)
    return best if weight > 0.0 and weight >= weights.get("identity", 0.0) else None


def _weight(parameters: str) -> float:
    key, _, value = parameters.strip().partition("=")
    if key.strip().lower() != "q":
        return 1.0
    try:
        return min(1.0, max(0.0, float(value)))
    except ValueError:
        return 0.0


async def compress(body: bytes, encoding: str) -> bytes:
    return await off_loop(len(body), _deflate, body, encoding)


def _deflate(body: bytes, encoding: str) -> bytes:
    engine = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS[encoding])
    return engine.compress(body) + engine.flush()
