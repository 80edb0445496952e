"""GET /metrics on a port of the node: behind an ingress that balances over nodes, a scrape would meet any of them."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn

from service.api.application import OipApp
from service.host.standalone import HttpServer

PATH = "/metrics"
_BACKLOG = 16


class NodeMetrics:
    """One small HTTP server in each replica. The replicas of a node share the port: each answers for the whole node.

    The app's own route answers, so that the metrics need the same key here as behind the ingress.
    """

    def __init__(self, app: OipApp) -> None:
        self._app = app
        self._server: HttpServer | None = None
        self._serving: asyncio.Task[None] | None = None

    def start(self, port: int, host: str = "0.0.0.0") -> None:
        """Listen and serve on the running loop. Raises OSError where another program has the port."""
        listener = _listen(host, port)
        self._server = HttpServer(
            uvicorn.Config(
                self._answer, interface="asgi3", lifespan="off", ws="none", log_config=None, access_log=False
            )
        )
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))

    async def close(self) -> None:
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == PATH:
            await self._app.asgi(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.create_server((host, port), backlog=_BACKLOG, reuse_port=True)
    listener.setblocking(False)
    return listener
