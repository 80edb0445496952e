"""The console over HTTP: which path answers what, and the scope it needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import orjson

from service.api.auth import Caller, Scope
from service.api.http import AsgiApp, ExtraRoute, decode_headers
from service.api.http_body import Receive, Send, read_body
from service.console.console import Console
from service.console.page import load_page
from service.console.views import Json
from service.errors import InvalidRequest
from service.inference.limits import Limits

MAX_BODY_BYTES = 4 << 20
JSON_HEADERS = {"content-type": "application/json", "cache-control": "no-store", "x-content-type-options": "nosniff"}

Work = Callable[[Mapping[str, Any], Receive], Awaitable[Json]]


def console_routes(console: Console, limits: Limits | None = None) -> tuple[ExtraRoute, ...]:
    """The page holds no data, so it needs no key; everything below /console/ needs the scope `infer`."""
    body_limits = replace(limits or Limits(), max_body_bytes=MAX_BODY_BYTES)

    async def overview(scope: Mapping[str, Any], receive: Receive) -> Json:
        return console.overview()

    async def live(scope: Mapping[str, Any], receive: Receive) -> Json:
        return await console.live()

    async def samples(scope: Mapping[str, Any], receive: Receive) -> Json:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        return console.samples(query.get("model", [""])[0])

    async def infer(scope: Mapping[str, Any], receive: Receive) -> Json:
        body = await read_body(receive, decode_headers(scope["headers"]), body_limits)
        try:
            parsed = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise InvalidRequest("body: expected valid JSON") from None
        caller: Caller = scope.get("swan.caller", Caller())
        return await console.infer(parsed, caller.tenant)

    return (
        ExtraRoute("/", ("GET",), Scope.HEALTH, _page()),
        ExtraRoute("/console/overview", ("GET",), Scope.INFER, _json(overview)),
        ExtraRoute("/console/live", ("GET",), Scope.INFER, _json(live)),
        ExtraRoute("/console/samples", ("GET",), Scope.INFER, _json(samples)),
        ExtraRoute("/console/infer", ("POST",), Scope.INFER, _json(infer)),
    )


def _page() -> AsgiApp:
    page = load_page()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await _send(send, page.body, page.headers)

    return app


def _json(work: Work) -> AsgiApp:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        answer = await work(scope, receive)
        await _send(send, orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), JSON_HEADERS)

    return app


async def _send(send: Send, body: bytes, headers: Mapping[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": 200, "headers": raw})
    await send({"type": "http.response.body", "body": body})
