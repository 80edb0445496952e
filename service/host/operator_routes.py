"""Routes for operators: the node's metrics, and the set-points of all replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from service.api.http import decode_headers
from service.api.http_body import Receive, Send, read_body
from service.api.json_reader import read_json_object
from service.control.set_points import SetPoints
from service.host.coordinator import SetPointSource
from service.inference.limits import Limits
from service.telemetry.exposition import CONTENT_TYPE, render


class MetricsRoute:
    """GET /metrics: all replica processes of this node. publish: brings this process's counts up to date."""

    def __init__(self, publish: Callable[[], None], registry: CollectorRegistry, folder: Path | None) -> None:
        self._publish = publish
        self._registry = registry
        self._folder = folder

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        self._publish()
        text = await asyncio.to_thread(render, self._registry, self._folder)
        await _answer(send, CONTENT_TYPE, text)


class SetPointRoute:
    """GET the set-points in force, POST a JSON object with the fields to change; answered once all replicas hear it."""

    def __init__(self, source: SetPointSource, limits: Limits) -> None:
        self._source = source
        self._limits = limits

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            body = await read_body(receive, decode_headers(scope["headers"]), self._limits)
            set_points = await self._source.publish(read_json_object(body, self._limits))
        else:
            set_points = await self._source.current()
        await _answer(send, "application/json", _json(set_points))


def _json(set_points: SetPoints) -> bytes:
    return orjson.dumps(asdict(set_points))


async def _answer(send: Send, content_type: str, body: bytes) -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
