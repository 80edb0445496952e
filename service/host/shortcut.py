"""Inference requests go from a replica's own servers straight to the replica, past Ray Serve's care for each request.

Ray Serve's care is two tasks, a queue, a semaphore, three context managers and four metrics a request: more CPU time
than all the rest. The servers, their ports, health and drain stay Ray Serve's. It builds its servers from import paths,
so the replica of a process is found here; a process without one, such as a proxy, takes the long way.
"""

from __future__ import annotations

from typing import Any, Protocol

from starlette.middleware import Middleware

from service.host.rpc_handlers import Rpcs

PATHS = "/v2/"  # what is not asked often, or is Ray Serve's own, takes the long way


class Shortcut(Rpcs, Protocol):
    """What the servers of a process need of the replica in it."""

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None: ...


_hosted: list[Shortcut] = []


def host(replica: Shortcut) -> None:
    """Make `replica` the one that this process's servers reach; call it before Ray Serve starts them."""
    _hosted[:] = [replica]


def hosted() -> Shortcut | None:
    return _hosted[0] if _hosted else None


class ShortcutMiddleware:
    """ASGI middleware of Ray Serve's HTTP servers."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if _hosted and scope["type"] == "http" and scope["path"].startswith(PATHS):
            await _hosted[0].asgi(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def http_middlewares() -> list[Middleware]:
    """For RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    return [Middleware(ShortcutMiddleware)]
