"""ModelInfer as HTTP/1.1 carries it from HAProxy, which speaks HTTP/2 with the client: trailers and all.

A call costs what a plain HTTP request does: no poller thread, no completion queue, no task beside the one that runs it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

import grpc

from service.api import proto
from service.api.arrivals import START_HEADER, age_of
from service.api.http_body import inflate
from service.api.status import refusal
from service.errors import InvalidRequest, PayloadTooLarge, ServiceError, UnsupportedEncoding
from service.host.rpc_handlers import Rpcs
from service.inference.limits import Limits

METHOD = "ModelInfer"
PATH = f"/{proto.SERVICE}/{METHOD}".encode()

_PREFIX = struct.Struct("!?I")  # compressed or not, bytes
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_OF_TRANSPORT = frozenset({"host", "te", "content-type", "content-length", "transfer-encoding", "connection"})
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n"
_UNSAFE = frozenset("\r\n")


PREFIX_BYTES = _PREFIX.size


class Body(NamedTuple):
    """size: bytes that came; of more than the limit only the first ones are in `data`."""

    data: bytes
    size: int


class HttpCall:
    """A CallContext whose metadata are a request's headers. `answer` is what goes to the client."""

    __slots__ = ("_code", "_details", "_headers", "_trailing")

    def __init__(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        self._headers = {name: value for name, value in pairs if name not in _OF_TRANSPORT}
        self._code, self._details = 0, ""
        self._trailing: Sequence[tuple[str, str]] = ()

    def headers(self) -> dict[str, str]:
        return self._headers

    def time_remaining(self) -> float | None:
        """What the client allowed, less what the call has waited for this process."""
        text = self._headers.get("grpc-timeout", "")
        if not text[:-1].isdigit() or text[-1] not in _UNITS_S:
            return None
        return int(text[:-1]) * _UNITS_S[text[-1]] - (age_of(self._headers.get(START_HEADER, "")) or 0.0)

    def finish(self, code: grpc.StatusCode | None, details: str, trailing: Sequence[tuple[str, str]]) -> None:
        self._code = code.value[0] if code is not None else 0
        self._details, self._trailing = details, trailing

    def answer(self, message: bytes) -> bytes:
        """The whole HTTP answer; without the message where the call failed."""
        lines = [f"grpc-status: {self._code}"]
        if self._details:
            lines.append(f"grpc-message: {quote(self._details, safe=_PLAIN)}")
        lines += [f"{key}: {value}" for key, value in self._trailing if _UNSAFE.isdisjoint(value)]
        trailers = "\r\n".join(["0", *lines, "", ""]).encode()
        if self._code:
            return _HEAD + trailers
        return b"%b%x\r\n%b%b\r\n%b" % (
            _HEAD,
            len(message) + PREFIX_BYTES,
            _PREFIX.pack(False, len(message)),
            message,
            trailers,
        )


_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


async def run(rpcs: Rpcs, call: HttpCall, limits: Limits, body: Body) -> bytes:
    """The answer to one call. Errors of the service become statuses; it raises only if it is cancelled."""
    try:
        message = _message(body, call.headers().get("grpc-encoding", "identity"), limits)
    except ServiceError as error:
        refused = refusal(error, "")
        call.finish(refused.grpc, refused.message, ())
        return call.answer(b"")
    return call.answer(await rpcs.unary(proto.SERVICE, METHOD, message, call))


def _message(body: Body, encoding: str, limits: Limits) -> bytes:
    """The one message of a unary call. Raises InvalidRequest, PayloadTooLarge or UnsupportedEncoding."""
    if body.size > limits.max_body_bytes + PREFIX_BYTES:
        raise PayloadTooLarge(f"the message has more than the {limits.max_body_bytes} bytes that are taken")
    if body.size < PREFIX_BYTES:
        raise InvalidRequest("the call has no message")
    compressed, size = _PREFIX.unpack_from(body.data)
    message = body.data[PREFIX_BYTES:]
    if len(message) != size:
        raise InvalidRequest("the call's message is cut short, or more follows")
    if not compressed:
        return message
    if encoding not in ("gzip", "deflate"):
        raise UnsupportedEncoding(f"grpc-encoding {encoding[:32]!r} is not offered; use gzip, deflate or none")
    return inflate(message, encoding, limits)
