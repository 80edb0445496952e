"""The protocol app under plain uvicorn and grpc.aio in this process: tests, benchmarks, and hosts without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import uvicorn

from service.api.application import OipApp
from service.host.gated_protocol import Inside
from service.host.http_protocol import BoundedProtocol
from service.host.rpc_handlers import add_service
from service.inference.limits import Limits
from service.security.tls import TlsSettings

_GRACE_S = 1.0
_BACKLOG = 1024
# HTTP/2 windows and message sizes are grpc's; a frame's own overhead is far below this
_GRPC_OVERHEAD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 = the system chooses."""

    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0


@asynccontextmanager
async def serve(app: OipApp, address: Address | None = None, tls: TlsSettings | None = None) -> AsyncIterator[Address]:
    """Serve while the context is open; yields the bound address. On leaving, requests in work get a moment."""
    address = address or Address()
    grpc_server = _grpc_server(app)
    target = f"{address.host}:{address.grpc_port}"
    grpc_port = (
        grpc_server.add_secure_port(target, tls.grpc_credentials()) if tls else grpc_server.add_insecure_port(target)
    )
    listener = listen(address.host, address.http_port)
    http_server = HttpServer(_http_config(app, tls))
    await grpc_server.start()
    serving = asyncio.create_task(http_server.serve(sockets=[listener]))
    try:
        yield Address(address.host, listener.getsockname()[1], grpc_port)
    finally:
        http_server.should_exit = True
        await grpc_server.stop(_GRACE_S)
        await serving


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket whose connections send at once.

    asyncio sets TCP_NODELAY only on sockets made with an explicit protocol number; accepted ones inherit it from here.
    Without it an answer's body waits for the client's delayed acknowledgement of its head: 40 ms.
    """
    listener = socket.create_server((host, port), backlog=_BACKLOG)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class HttpServer(uvicorn.Server):  # type: ignore[misc]
    """uvicorn that leaves the process's signals to whoever owns the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with contextlib.nullcontext():
            yield


def _http_config(app: OipApp, tls: TlsSettings | None) -> uvicorn.Config:
    async def asgi(scope: Any, receive: Any, send: Any) -> None:  # uvicorn takes a bound method for ASGI 2
        await app.asgi(scope, receive, send)

    return uvicorn.Config(
        asgi,
        http=partial(BoundedProtocol, Inside(app.grpc, app.gate, app.limits, app.short_way)),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=int(_GRACE_S),
        **(tls.uvicorn_options() if tls else {}),
    )


def _grpc_server(app: OipApp) -> grpc.aio.Server:
    server = grpc.aio.server(options=_grpc_options(app.limits))
    for service in app.services:
        add_service(server, service, app.grpc, app.grpc.methods(service))
    return server


def _grpc_options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.max_body_bytes + _GRPC_OVERHEAD_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
        ("grpc.max_metadata_size", limits.max_header_bytes),
        # tritonclient's KeepAliveOptions may ping without a call in flight: allow it, every 10 s at most
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.so_reuseport", 0),
    ]
