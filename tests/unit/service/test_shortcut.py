"""The short way to a process's replica: which requests take it, and which are Ray Serve's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from service.host import mounting, shortcut
from service.host.shortcut import ShortcutMiddleware


class Replica:
    """Notes the paths it is asked for, echoes RPCs."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])

    async def unary(self, service: str, method: str, data: bytes, context: Any) -> bytes:
        return f"{service}/{method} ".encode() + data

    async def stream(
        self, service: str, method: str, requests: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request


@pytest.fixture
def replica() -> Iterator[Replica]:
    replica = Replica()
    shortcut.host(replica)
    yield replica
    shortcut._hosted.clear()


async def ask(paths: list[str], kind: str = "http") -> list[str]:
    """Send one request a path through the middleware; gives the paths that Ray Serve got."""
    seen: list[str] = []

    async def ray_serve(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope.get("path", scope["type"]))

    (middleware,) = shortcut.http_middlewares()
    app = middleware.cls(ray_serve)
    assert isinstance(app, ShortcutMiddleware)
    for path in paths:
        await app({"type": kind, "path": path}, None, None)
    return seen


async def test_inference_goes_to_the_replica_and_the_rest_to_ray_serve(replica: Replica) -> None:
    assert await ask(["/v2/models/m/infer", "/-/healthz", "/", "/metrics", "/prefix/v2/models/m"]) == [
        "/-/healthz",
        "/",
        "/metrics",
        "/prefix/v2/models/m",
    ]
    assert replica.paths == ["/v2/models/m/infer"]
    assert await ask(["/v2/x"], kind="websocket") == ["/v2/x"]


async def test_a_process_without_a_replica_sends_all_to_ray_serve() -> None:
    assert shortcut.hosted() is None
    assert await ask(["/v2/models/m/infer"]) == ["/v2/models/m/infer"]


async def test_the_server_of_a_replica_calls_it_directly(replica: Replica) -> None:
    from ray.serve._private.grpc_util import gRPCGenericServer

    def ray_serve(service_method: str, streaming_type: Any) -> Any:
        return None  # a method that Ray Serve handled would fail

    server = gRPCGenericServer(ray_serve)
    for mount in (mounting.add_inference_service, mounting.add_health_service, mounting.add_reflection_service):
        mount(None, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = await channel.unary_unary(f"/{mounting.INFERENCE}/ModelInfer")(b"x", timeout=30)
        stream = channel.stream_stream(f"/{mounting.REFLECTION_ALPHA}/ServerReflectionInfo")(iter([b"1", b"2"]))
        streamed = [message async for message in stream]
    await server.stop(0)
    assert answer == b"inference.GRPCInferenceService/ModelInfer x"
    assert streamed == [b"1", b"2"]
