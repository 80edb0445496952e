"""A replica without models, to test the Ray side alone: answers live and ready, echoes bytes over both protocols."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc

from service.api.call_context import CallContext
from service.config import Settings
from service.control.set_points import SetPoints
from service.host.coordinator import SetPointSource
from service.host.model_server import deployment
from service.inference.limits import Limits

LIVE = b"\x08\x01"  # ServerLiveResponse(live=True); the same bytes are ready=True


class EchoReplica:
    gate = None
    limits = Limits()

    def __init__(self, source: SetPointSource) -> None:
        self._source = source
        self._config: Mapping[str, Any] = {}
        self._set_points = SetPoints()
        self._sleeping = 0

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, answer = await self._answer(scope["path"], body)
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def short_way(self, path: str) -> None:
        """Every request is routed."""

    async def _answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        if path.startswith("/v2/health/"):
            return 200, b""
        if path == "/config":
            return 200, repr(dict(self._config)).encode()
        if path == "/set-points":
            return 200, str(self._set_points.mode).encode()
        if path == "/publish":
            await self._source.publish({"mode": body.decode()})
            return 200, b""
        if path == "/in-flight":
            return 200, str(self._sleeping).encode()
        if path in ("/slow", "/v2/slow"):  # Ray Serve's way to the replica, and the short one
            self._sleeping += 1
            await asyncio.sleep(float(body))
            return 200, b"slept"
        return 200, body

    async def unary(self, service: str, method: str, data: bytes, context: CallContext) -> bytes:
        if method == "ServerMetadata":  # what the replica knows of the call, as a message of one string
            remaining = context.time_remaining()
            text = f"{context.headers().get('note')} {remaining is not None and 0 < remaining < 60}".encode()
            context.finish(None, "", [("answered", "yes")])
            return b"\x0a" + bytes([len(text)]) + text
        if method == "ModelMetadata":
            context.finish(grpc.StatusCode.NOT_FOUND, "no such model", [("retry-after", "3")])
            return b""
        if method == "ModelInfer":
            self._sleeping += 1
            await asyncio.sleep(float(data))
            return b"slept"
        return LIVE

    async def stream(
        self, service: str, method: str, requests: AsyncIterator[bytes], context: CallContext
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    def configure(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def steer(self, set_points: SetPoints) -> None:
        self._set_points = set_points

    def check_health(self) -> None: ...

    def autoscaling_stats(self) -> dict[str, float]:
        return {}

    async def close(self) -> None: ...


async def start(settings: Settings, source: SetPointSource) -> EchoReplica:
    return EchoReplica(source)


def build_app(args: dict[str, Any]) -> Any:
    return deployment().bind(Settings.load(args), start)
