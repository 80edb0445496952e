"""OipApp: the whole protocol as one object, free of any server: an ASGI callable and RPCs on raw bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.routing import Mount, Route, Router

from service.api import proto
from service.api.auth import AllowAll, Authorizer
from service.api.grpc import GrpcApi
from service.api.grpc_frame import GrpcFrame
from service.api.grpc_standard import StandardServices
from service.api.http import (
    ExtraRoute,
    Guarded,
    GuardedApp,
    decode_headers,
    error_answer,
    request_id_of,
    send_answer,
)
from service.api.http_body import Receive, Send
from service.api.rest import RestApi
from service.api.status import refusal
from service.dataplane import Dataplane
from service.errors import MethodNotAllowed, NotFound, ServiceError
from service.limits import Limits


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """base_path: a prefix before every route, "" or like "/base". nan_as_null: NaN in JSON outputs becomes null."""

    base_path: str = ""
    nan_as_null: bool = False


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
        rest = RestApi(dataplane, limits, options.nan_as_null)
        self.limits = limits
        self.routes = _routes(rest, authorize, extra_routes, options.base_path)
        self._router = Router(self.routes, redirect_slashes=False, default=_not_found)
        rpcs = GrpcApi(dataplane, limits).rpcs() | StandardServices(dataplane).rpcs()
        self.grpc = GrpcFrame(rpcs, authorize, limits)

    async def asgi(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["app"] = self  # makes Starlette raise for a wrong method instead of answering in plain text
            try:
                await self._router(scope, receive, send)
            except HTTPException as error:
                allowed = (error.headers or {}).get("Allow", "")
                await _refuse(scope, send, MethodNotAllowed(f"method {scope['method']}: this route takes {allowed}"))
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})


def _routes(
    rest: RestApi, authorize: Authorizer, extra_routes: Sequence[ExtraRoute], base_path: str
) -> list[Route | Mount]:
    routes: list[Route | Mount] = [
        Route(path, Guarded(endpoint, scope, authorize), methods=[method])
        for method, path, scope, endpoint in rest.routes()
    ]
    for extra in extra_routes:
        guarded = GuardedApp(extra.handler, extra.scope, authorize)
        routes.append(Route(extra.path, guarded, methods=list(extra.methods)))
    return [Mount(base_path, routes=routes)] if base_path else routes


async def _not_found(scope: Any, receive: Receive, send: Send) -> None:
    await _refuse(scope, send, NotFound("no such route; GET /v2 describes the server, GET /docs its routes"))


async def _refuse(scope: Any, send: Send, error: ServiceError) -> None:
    request_id = request_id_of(decode_headers(scope["headers"]))
    await send_answer(send, error_answer(refusal(error, request_id), request_id), request_id)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
