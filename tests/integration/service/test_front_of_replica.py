"""Console, keys, logs and traces as the composition root wires them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import tritonclient.grpc.aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.api.auth import Scope
from service.app import start_replica
from service.config import InvalidSetting, Settings
from service.host.coordinator import Coordinator
from service.host.standalone import serve
from service.security.keys import KeyRing, create
from service.telemetry import log
from tests.support.import_package import write_package

BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    saved = {name: (logging.getLogger(name).handlers, logging.getLogger(name).propagate) for name in log.OWN_LOGGERS}
    yield
    structlog.reset_defaults()
    for name, (handlers, propagate) in saved.items():
        logging.getLogger(name).handlers, logging.getLogger(name).propagate = handlers, propagate


@asynccontextmanager
async def running(tmp_path: Path, **settings: Any) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    repository = tmp_path / "models"
    write_package(repository)
    chosen = Settings.load({"models_dir": repository, "profile_cache_dir": tmp_path / "cache", **settings})
    replica = await start_replica(chosen, Coordinator())
    async with (
        serve(replica.app) as address,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{address.http_port}", timeout=60) as client,
    ):
        yield client, f"127.0.0.1:{address.grpc_port}"
    await replica.close()


async def test_the_console_shows_the_loaded_models_and_what_they_answered(tmp_path: Path) -> None:
    async with running(tmp_path) as (client, _):
        assert "swan-serve console" in (await client.get("/")).text
        overview = (await client.get("/console/overview")).json()
        assert [model["name"] for model in overview["models"]] == ["identity"]
        assert (await client.post("/v2/models/identity/infer", json=BODY)).status_code == 200
        live = (await client.get("/console/live")).json()
        assert live["ready"] and live["models"]["identity"]["answered"] == 1
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert "/console/infer" in paths and "/" in paths


async def test_keys_guard_http_and_grpc_alike(tmp_path: Path) -> None:
    key, entry = create("web", [Scope.INFER])
    KeyRing([entry]).save(tmp_path / "keys.json")
    async with running(tmp_path, api_keys_file=tmp_path / "keys.json", admin_enabled=True) as (client, grpc_address):
        headers = {"authorization": f"Bearer {key}"}
        assert (await client.get("/v2/health/ready")).status_code == 200
        for path, status in (("/v2", 200), ("/console/overview", 200), ("/metrics", 403), ("/v2/control", 403)):
            assert (await client.get(path)).status_code == 401
            assert (await client.get(path, headers=headers)).status_code == status
        async with tritonclient.grpc.aio.InferenceServerClient(grpc_address) as grpc_client:
            with pytest.raises(Exception, match="wants an API key"):
                await grpc_client.get_server_metadata()
            assert (await grpc_client.get_server_metadata(headers=headers)).name == "swan-serve"


async def test_a_key_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="swan keys create"):
        async with running(tmp_path, api_keys_file=tmp_path / "none.json"):
            pass


async def test_access_lines_carry_the_clients_request_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with running(tmp_path, log_format="json", access_log_sample=1.0) as (client, _):
        for request_id in ("first-1", "second-2"):
            await client.post("/v2/models/identity/infer", json=BODY, headers={"x-request-id": request_id})
        bad = {"inputs": [{**BODY["inputs"][0], "shape": [3, 3]}]}
        await client.post("/v2/models/identity/infer", json=bad, headers={"x-request-id": "third-3"})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    access = [line for line in lines if line["logger"] == "swan.access"]
    assert [line["request_id"] for line in access][:2] == ["first-1", "second-2"]
    assert all(line["outcome"] == "ok" and line["model"] == "identity" for line in access[:2])


async def test_traces_reach_the_collector_under_the_callers_trace(tmp_path: Path) -> None:
    received: list[bytes] = []

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        received.append(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    collector = await asyncio.start_server(collect, "127.0.0.1", 0)
    port = collector.sockets[0].getsockname()[1]
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    async with collector, running(tmp_path, otlp_endpoint=f"http://127.0.0.1:{port}") as (client, _):
        await client.post("/v2/models/identity/infer", json=BODY, headers=headers)
        while not received:  # the exporter sends on its own thread; the test's own timeout ends it
            await asyncio.to_thread(lambda: None)
    span = ExportTraceServiceRequest.FromString(received[0]).resource_spans[0].scope_spans[0].spans[0]
    attributes = {item.key for item in span.attributes}
    assert span.trace_id.hex() == trace_id and span.name == "/v2/models/{model}/infer"
    assert {"swan.model", "swan.budget", "swan.macs", "swan.request_id"} <= attributes
