"""The HTTP frame around every route: request id, authorization, one place where errors become answers."""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol

import orjson

from service.api.around import Around, nothing_around
from service.api.auth import Authorizer, Caller, Scope
from service.api.http_body import Message, Receive, Send
from service.api.status import Refusal, refusal

JSON = b"application/json"
_RANDOM = random.Random()
_CLIENT_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}", re.ASCII)
# after these the rest of a body is still on its way: only closing the connection ends it
_CLOSE_AFTER = frozenset({408, 413})
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


@dataclass(slots=True)
class Call:
    """One HTTP request. path: the route's parameters, still as the client spelled them.

    body: what a transport that cancels the work of a client that leaves has read whole; None = `receive` has it.
    """

    method: str
    path: Mapping[str, str]
    headers: Mapping[str, str]
    receive: Receive
    request_id: str
    caller: Caller = field(default_factory=Caller)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint returns; the frame adds length, request id and, for compressed bodies, nothing."""

    body: bytes = b""
    status: int = 200
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


Endpoint = Callable[[Call], Awaitable[Answer]]


class AsgiApp(Protocol):
    def __call__(self, scope: Any, receive: Receive, send: Send, /) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class ExtraRoute:
    """A route mounted by another part. handler: an ASGI app; it answers its own errors or raises ours.

    It finds the Caller in its ASGI scope under "swan.caller". summary: one sentence for the API's documentation.
    """

    path: str
    methods: tuple[str, ...]
    scope: Scope
    handler: AsgiApp
    summary: str = ""


def new_request_id() -> str:
    """Unique, not secret: a system call for each would let other threads in between."""
    return f"{_RANDOM.getrandbits(64):016x}"


def request_id_of(headers: Mapping[str, str]) -> str:
    """The id that a request is known by."""
    return accepted_id(headers.get("x-request-id", ""))


def accepted_id(wanted: str) -> str:
    """The client's own x-request-id if it is harmless, else a new one."""
    return wanted if _CLIENT_ID.fullmatch(wanted) else new_request_id()


def decode_headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}


class Guarded:
    """One path's endpoints behind the frame, by method; Starlette routes to it as a raw ASGI app."""

    def __init__(
        self,
        endpoints: Mapping[str, tuple[Scope, Endpoint]],
        authorize: Authorizer,
        path: str = "",
        around: Around = nothing_around,
    ) -> None:
        self._endpoints = dict(endpoints)
        self.path, self._around = path, around
        if "GET" in endpoints:
            self._endpoints["HEAD"] = endpoints["GET"]
        self._authorize = authorize

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        headers = decode_headers(scope["headers"])
        request_id = request_id_of(headers)
        with self._around(self.path, request_id, headers):
            answer = await self._answer(Call(scope["method"], scope["path_params"], headers, receive, request_id))
            await send_answer(send, answer, request_id)

    async def post(self, path: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> bytes:
        """The answer as HTTP/1.1 carries it. path: the route's parameters. It raises only if it is cancelled."""
        request_id = request_id_of(headers)
        with self._around(self.path, request_id, headers):
            answer = await self._answer(Call("POST", path, headers, _nothing_more, request_id, body=body))
            return http_answer(answer, request_id)

    async def _answer(self, call: Call) -> Answer:
        needed, endpoint = self._endpoints[call.method]
        try:
            if needed is not Scope.HEALTH:
                call.caller = self._authorize(call.headers, needed)
            return await endpoint(call)
        except Exception as error:
            return error_answer(refusal(error, call.request_id), call.request_id)


class GuardedApp:
    """Another part's ASGI app behind the same authorization, request id and error table."""

    def __init__(self, route: ExtraRoute, authorize: Authorizer, around: Around = nothing_around) -> None:
        self._route = route
        self._authorize = authorize
        self._around = around

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        headers = decode_headers(scope["headers"])
        request_id = request_id_of(headers)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        with self._around(self._route.path, request_id, headers):
            try:
                if self._route.scope is not Scope.HEALTH:
                    scope["swan.caller"] = self._authorize(headers, self._route.scope)
                await self._route.handler(scope, receive, send_with_id)
            except Exception as error:
                answer = error_answer(refusal(error, request_id), request_id)
                if not started:
                    await send_answer(send, answer, request_id)


def error_answer(refused: Refusal, request_id: str, allow: str = "") -> Answer:
    """allow: the methods that the route does take, for 405."""
    message = refused.message.encode(errors="replace").decode()
    body = orjson.dumps({"error": message or "error", "request_id": request_id})
    headers: list[tuple[bytes, bytes]] = []
    if refused.retry_after_s is not None:
        headers.append((b"retry-after", refused.retry_after_header.encode()))
    if allow:
        headers.append((b"allow", allow.encode()))
    if refused.http == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refused.http in _CLOSE_AFTER:
        headers.append((b"connection", b"close"))
    return Answer(body, refused.http, JSON, tuple(headers))


async def _nothing_more() -> Message:
    raise RuntimeError("the body was read before")


def http_answer(answer: Answer, request_id: str) -> bytes:
    """Status line, headers and body in one piece."""
    headers = [b"%b: %b\r\n" % header for header in _headers(answer, request_id)]
    return b"".join((b"HTTP/1.1 %d %b\r\n" % (answer.status, _PHRASES[answer.status]), *headers, b"\r\n", answer.body))


async def send_answer(send: Send, answer: Answer, request_id: str) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": _headers(answer, request_id)})
    await send({"type": "http.response.body", "body": answer.body})


def _headers(answer: Answer, request_id: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", answer.content_type),
        (b"content-length", b"%d" % len(answer.body)),
        (b"x-request-id", request_id.encode()),
        *answer.headers,
    ]
