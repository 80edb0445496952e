"""OipApp: the whole protocol as one object, free of any server: an ASGI callable and RPCs on raw bytes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.routing import Mount, Route, Router

from service.api import proto
from service.api.around import Around, nothing_around
from service.api.auth import AllowAll, Authorizer, Scope
from service.api.front import Front
from service.api.grpc import GrpcApi
from service.api.grpc_frame import GrpcFrame
from service.api.grpc_standard import StandardServices
from service.api.http import (
    Endpoint,
    ExtraRoute,
    Guarded,
    GuardedApp,
    decode_headers,
    error_answer,
    request_id_of,
    send_answer,
)
from service.api.http_body import Receive, Send
from service.api.openapi import ApiDescription
from service.api.rest import RestApi, RouteRow
from service.api.status import refusal
from service.errors import MethodNotAllowed, NotFound, ServiceError
from service.inference.dataplane import Dataplane
from service.inference.limits import Limits


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """base_path: a prefix before every route, "" or like "/base". nan_as_null: NaN in JSON outputs becomes null.

    around: surrounds every request and RPC, for logs and traces.
    """

    base_path: str = ""
    nan_as_null: bool = False
    around: Around = nothing_around


ShortWay = Callable[[Mapping[str, str], bytes], Coroutine[Any, Any, bytes]]


class KnownPaths:
    """Paths of inference requests that were routed before: a look-up instead of a regular expression after another."""

    MAX_PATHS = 256

    def __init__(self) -> None:
        self._found: dict[str, tuple[Guarded, dict[str, str]]] = {}

    def of(self, path: str) -> tuple[Guarded, dict[str, str]] | None:
        """The endpoint of a POST to `path`, and its path parameters."""
        return self._found.get(path)

    def find(self, scope: Any) -> Guarded | None:
        """The endpoint, its path parameters put into the scope as the router would."""
        found = self.of(scope["path"])
        if found is None or scope["method"] != "POST":
            return None
        scope["path_params"] = found[1]
        return found[0]

    def remember(self, scope: Any) -> None:
        endpoint = scope.get("endpoint")
        if scope["method"] == "POST" and isinstance(endpoint, Guarded) and endpoint.path.endswith("/infer"):
            if len(self._found) >= self.MAX_PATHS:  # names that clients invent must not fill the memory
                self._found.clear()
            self._found[scope["path"]] = (endpoint, scope["path_params"])


class OipApp:
    """`asgi` answers HTTP, `grpc.unary` and `grpc.stream` answer RPCs, under one authorizer and one error table."""

    services = (proto.SERVICE, proto.HEALTH, proto.REFLECTION, proto.REFLECTION_ALPHA)

    def __init__(
        self,
        dataplane: Dataplane,
        authorize: Authorizer | None = None,
        limits: Limits | None = None,
        options: ApiOptions | None = None,
        extra_routes: Sequence[ExtraRoute] = (),
    ) -> None:
        authorize = authorize or AllowAll()
        limits = limits or Limits()
        options = options or ApiOptions()
        identity = dataplane.identity
        self.limits = limits
        self.description = ApiDescription(identity.name, identity.version, extra_routes)
        front = Front(dataplane, limits, options.base_path)
        self.gate = front.gate
        table = [
            *RestApi(dataplane, limits, front, options.nan_as_null).routes(),
            ("GET", "/openapi.json", Scope.HEALTH, self.description.openapi),
            ("GET", "/docs", Scope.HEALTH, self.description.docs),
        ]
        routes = [*_routes(table, authorize, options.around), *_extra(extra_routes, authorize, options.around)]
        self.routes = [Mount(options.base_path, routes=routes)] if options.base_path else routes
        self._router = Router(self.routes, redirect_slashes=False, default=_not_found)
        rpcs = GrpcApi(dataplane, limits, front).rpcs() | StandardServices(dataplane).rpcs()
        self.grpc = GrpcFrame(rpcs, authorize, limits, options.around, front.arrivals, self.gate)
        self._known = KnownPaths()

    def short_way(self, path: str) -> ShortWay | None:
        """What answers inference requests to `path`, if one was routed before: of headers and the whole body."""
        known = self._known.of(path)
        return partial(known[0].post, known[1]) if known is not None else None

    async def asgi(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            known = self._known.find(scope)
            if known is not None:
                await known(scope, receive, send)
                return
            scope["app"] = self  # makes Starlette raise for a wrong method instead of answering in plain text
            try:
                await self._router(scope, receive, send)
                self._known.remember(scope)
            except HTTPException as error:
                allow = (error.headers or {}).get("Allow", "")
                await _refuse(
                    scope, send, MethodNotAllowed(f"method {scope['method']}: this route takes {allow}"), allow
                )
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})


def _routes(table: Iterable[RouteRow], authorize: Authorizer, around: Around) -> list[Route]:
    by_path: dict[str, dict[str, tuple[Scope, Endpoint]]] = {}
    for method, path, scope, endpoint in table:
        by_path.setdefault(path, {})[method] = (scope, endpoint)
    return [
        Route(path, Guarded(endpoints, authorize, path, around), methods=list(endpoints))
        for path, endpoints in by_path.items()
    ]


def _extra(extra_routes: Iterable[ExtraRoute], authorize: Authorizer, around: Around) -> list[Route]:
    return [
        Route(extra.path, GuardedApp(extra, authorize, around), methods=list(extra.methods)) for extra in extra_routes
    ]


async def _not_found(scope: Any, receive: Receive, send: Send) -> None:
    await _refuse(scope, send, NotFound("no such route; GET /v2 describes the server, GET /docs its routes"))


async def _refuse(scope: Any, send: Send, error: ServiceError, allow: str = "") -> None:
    request_id = request_id_of(decode_headers(scope["headers"]))
    await send_answer(send, error_answer(refusal(error, request_id), request_id, allow), request_id)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
