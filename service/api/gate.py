"""Refuses the surplus of a flood by the bytes of a request, before anything is parsed or a task is made for it.

A replica can decode, judge and refuse two or three thousand requests a second, and nothing else then. Here a refusal
costs a few searches in the bytes. Whatever is not a whole, plain inference request goes the long way.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from service.api.arrivals import START_HEADER, age_of
from service.api.call_context import CallContext
from service.api.http import accepted_id
from service.errors import Overloaded
from service.inference.dataplane import Dataplane
from service.types import Haste

REASON = "surplus"  # ShedReason.SURPLUS of the control law, which this layer does not know
MESSAGE = "more requests arrive than can be answered"
RETRY_AFTER_S = 1.0

_ROUTE = re.compile(rb"/v2/models/([A-Za-z0-9._-]{1,128})(?:/versions/([1-9][0-9]{0,17}))?/infer")
_DIGITS = re.compile(rb" ?([0-9]{1,12})")
_SECONDS = re.compile(rb" ?([0-9]{1,9}(?:\.[0-9]{1,9})?)")
# an HTTP parser is needed to know where such a request ends, or what becomes of its connection
_FRAMING = (b"\r\ntransfer-encoding:", b"\r\nexpect:", b"\r\nupgrade:", b"\r\nconnection: close")
# who has a rank, or would rather be late than refused, is judged by the law
_HEADERS = (b"\r\npriority:",)
_PARAMETERS = (b'"priority"', b'"deadline_policy"')
_RPC_PARAMETERS = (b"\n\x08priority", b"\n\x0fdeadline_policy")
_RPC_TIMEOUT = b"\n\x07timeout\x12"
_MAX_PATHS = 256
_MAX_BODY_BYTES = 1 << 16  # more takes so long to arrive that reading it is no longer what costs
_NAME_FIELD = 0x0A  # protobuf: field 1, length-delimited; serializers write fields in order
_CONTINUED = 0x80  # a varint's byte that is not the last

_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    b"retry-after: %d\r\nx-request-id: %b\r\n\r\n%b"
)


MORE = b""


class _Named(NamedTuple):
    model: str
    version: str


class Gate:
    """One per replica, for both protocols. base_path: prefix of every route."""

    def __init__(self, dataplane: Dataplane, base_path: str = "") -> None:
        self._dataplane = dataplane
        self._base = base_path.encode()
        self._paths: dict[bytes, _Named | None] = {}

    @property
    def shut(self) -> bool:
        """Whether the surplus of any model is refused now; else nobody needs to ask."""
        return self._dataplane.flooded

    def http(self, data: bytes) -> bytes | None:
        """The answer to the request that `data` is: None if it must be read, MORE if it has not come whole yet."""
        body = data.find(b"\r\n\r\n") + 4
        named = self._named(data)
        if named is None or body < 4:
            return None
        head = data[: body - 2].lower()
        length = _DIGITS.fullmatch(_header(head, b"\r\ncontent-length:"))
        if length is None or int(length[1]) > _MAX_BODY_BYTES or _holds_any(head, _FRAMING + _HEADERS):
            return None
        missing = body + int(length[1]) - len(data)
        if missing > 0:
            return MORE
        if missing < 0 or _holds_any(data, _PARAMETERS):
            return None
        age_s = age_of(_header(head, b"\r\nx-request-start:").decode("latin-1")) or 0.0
        haste = Haste(_timeout_s(data, head), age_s)
        if not self._dataplane.turns_away(named.model, named.version, haste, _surplus()):
            return None
        return _answer(data[:body])

    def rpc(self, data: bytes, context: CallContext) -> None:
        """data: a ModelInferRequest. Raises Overloaded if it is surplus."""
        size = data[1] if len(data) > 1 and data[0] == _NAME_FIELD else 0
        if not 0 < size < _CONTINUED or _holds_any(data, _RPC_PARAMETERS):
            return
        asked_s, timeout_s = _rpc_timeout_s(data), context.time_remaining()
        if asked_s is not None:
            timeout_s = asked_s if timeout_s is None else min(asked_s, timeout_s)
        age_s = age_of(context.headers().get(START_HEADER, "")) or 0.0
        self.check(data[2 : 2 + size].decode("latin-1"), "", Haste(timeout_s, age_s))

    def check(self, model: str, version: str, haste: Haste) -> None:
        """Raises Overloaded if one more request for this model is surplus."""
        if not self.shut:
            return
        refusal = _surplus()
        if self._dataplane.turns_away(model, version, haste, refusal):
            raise refusal

    def _named(self, data: bytes) -> _Named | None:
        """The model of an inference route."""
        end = data.find(b" HTTP/1.1\r\n", 0, 512)
        if end < 0 or not data.startswith(b"POST "):
            return None
        path = data[5:end]
        try:
            return self._paths[path]
        except KeyError:
            route = path.partition(b"?")[0]
            found = _ROUTE.fullmatch(route.removeprefix(self._base)) if route.startswith(self._base) else None
            if len(self._paths) >= _MAX_PATHS:  # names that clients invent must not fill the memory
                self._paths.clear()
            named = _Named(found[1].decode(), (found[2] or b"").decode()) if found else None
            self._paths[path] = named
            return named


def _surplus() -> Overloaded:
    """A new one for each request: one that is raised again and again keeps the frames of every time."""
    return Overloaded(MESSAGE, RETRY_AFTER_S, REASON)


def _holds_any(data: bytes, texts: tuple[bytes, ...]) -> bool:
    return any(text in data for text in texts)


def _answer(head: bytes) -> bytes:
    at = head.lower().find(b"\r\nx-request-id:")
    wanted = _header(head[at:], head[at : at + 15]).strip() if at >= 0 else b""
    request_id = accepted_id(wanted.decode("latin-1")).encode()
    body = b'{"error":"%b","request_id":"%b"}' % (MESSAGE.encode(), request_id)
    return _ANSWER % (len(body), RETRY_AFTER_S, request_id, body)


def _header(head: bytes, name: bytes) -> bytes:
    at = head.find(name)
    if at < 0:
        return b""
    return head[at + len(name) : head.find(b"\r\n", at + 2)]


def _timeout_s(data: bytes, head: bytes) -> float | None:
    """What the request says about its time; only a hint, so the first that is found will do."""
    at = data.find(b'"timeout":')
    parameter = _DIGITS.match(data, at + 10) if at >= 0 else None
    if parameter is not None:
        return int(parameter[1]) * 1e-6 or None
    header = _SECONDS.fullmatch(_header(head, b"\r\nx-request-timeout-seconds:"))
    return (float(header[1]) or None) if header else None


def _rpc_timeout_s(data: bytes) -> float | None:
    """The parameter `timeout` of a ModelInferRequest: a map entry whose value is a message with one varint."""
    at = data.find(_RPC_TIMEOUT) + len(_RPC_TIMEOUT) + 2  # past the value's length and the field's tag
    if at < len(_RPC_TIMEOUT) + 2:
        return None
    value = 0
    for position, byte in enumerate(data[at : at + 9]):
        value |= (byte & 0x7F) << 7 * position
        if byte < _CONTINUED:
            break
    return value * 1e-6 or None
