"""A replica as the composition root builds it, without Ray: packages, scheduler, metrics, operators' routes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc.aio
import tritonclient.http.aio

from models.registry import find_package, load_package, shipped_repository
from service.api.auth import Scope
from service.app import start_replica
from service.config import InvalidSetting, Settings
from service.errors import ModelFailed
from service.host.coordinator import Coordinator, follow
from service.host.replica import ServiceReplica
from service.host.standalone import Address, serve
from service.launcher.ray_environment import free_ports
from service.security.keys import KeyRing, create
from tests.support.import_package import write_package


@asynccontextmanager
async def running(tmp_path: Path, **settings: Any) -> AsyncIterator[tuple[ServiceReplica, Address, Coordinator]]:
    repository = tmp_path / "models"
    if "models_dir" not in settings and not repository.exists():
        write_package(repository)
    profiles = tmp_path.parent / "profiles"  # of the whole session: measured once
    chosen = Settings.load({"models_dir": repository, "profile_cache_dir": profiles, **settings})
    coordinator = Coordinator()
    replica = await start_replica(chosen, coordinator)
    following = asyncio.create_task(follow(coordinator, replica.steer))
    async with serve(replica.app) as address:
        yield replica, address, coordinator
    following.cancel()
    await replica.close()


async def test_both_protocols_answer_with_the_cost(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    async with running(tmp_path) as (_, address, _coordinator):
        for module, port in ((tritonclient.http.aio, address.http_port), (tritonclient.grpc.aio, address.grpc_port)):
            async with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
                tensor = module.InferInput("x", list(rows.shape), "FP32")
                tensor.set_data_from_numpy(rows)
                answer = await client.infer("identity", [tensor])
                np.testing.assert_array_equal(answer.as_numpy("y"), rows)
                assert await client.is_server_ready()


async def test_metrics_count_what_was_answered(tmp_path: Path) -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    async with running(tmp_path) as (_, address, _coordinator), http(address) as client:
        for _ in range(3):
            assert (await client.post("/v2/models/identity/infer", json=body)).status_code == 200
        scrape = (await client.get("/metrics")).text
    counted = [
        line for line in scrape.splitlines() if line.startswith("swan_requests_total{") and 'outcome="ok"' in line
    ]
    assert [float(line.rsplit(" ", 1)[1]) for line in counted] == [3.0]
    assert "swan_profile_info{" in scrape


async def test_an_operator_steers_through_the_admin_route(tmp_path: Path) -> None:
    async with running(tmp_path, admin_enabled=True) as (_, address, coordinator), http(address) as client:
        assert (await client.get("/v2/control")).json()["mode"] == "auto"
        changed = await client.post("/v2/control", json={"mode": "manual", "budget": 0.5})
        assert changed.json() == {**changed.json(), "mode": "manual", "budget": 0.5, "version": 1}
        refused = await client.post("/v2/control", json={"mode": "turbo"})
        assert refused.status_code == 400
        assert "auto, manual, freeze, shadow" in refused.json()["error"]
        await client.post("/v2/control", json={"draining": True})
        while (await client.get("/v2/health/ready")).status_code != 503:  # the test's own timeout ends it
            pass
        assert (await coordinator.current()).draining


async def test_the_admin_plane_is_closed_by_default(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, address, _coordinator), http(address) as client:
        assert (await client.post("/v2/control", json={"mode": "freeze"})).status_code == 403
        assert (await client.post("/v2/repository/models/identity/unload")).status_code == 403


async def test_api_keys_guard_every_plane(tmp_path: Path) -> None:
    secret, key = create("reader", [Scope.INFER])
    keys = tmp_path / "keys.json"
    KeyRing([key]).save(keys)
    async with running(tmp_path, api_keys_file=keys) as (_, address, _coordinator), http(address) as client:
        assert (await client.get("/v2/models/identity")).status_code == 401
        client.headers["x-api-key"] = secret
        assert (await client.get("/v2/models/identity")).status_code == 200
        assert (await client.get("/v2/control")).status_code == 403
        assert (await client.get("/metrics")).status_code == 403


async def test_a_tenant_spends_macs_not_requests_and_pays_for_nobody_else(tmp_path: Path) -> None:
    """Keys name the tenants; the quota of one is the compute of exactly three full requests."""
    table = load_package(find_package(shipped_repository(), "fashion-mlp")).table
    assert table is not None
    request_macs = table.at(1.0).macs_mean
    keys, secrets = [], {}
    for name in ("modest", "other"):
        secrets[name], key = create(name, [Scope.INFER, Scope.METRICS])
        keys.append(key)
    KeyRing(keys).save(tmp_path / "keys.json")
    chosen = {"models_dir": shipped_repository(), "models": ("fashion-mlp",), "api_keys_file": tmp_path / "keys.json"}
    quota = {"quota_tenants": {"modest": 1e-3 * request_macs}, "quota_burst_s": 3000.0}
    body = {
        "inputs": [{"name": "INPUT", "datatype": "FP32", "shape": [1, 784], "data": [0.5] * 784}],
        "parameters": {"quality": "full", "timeout": 30_000_000},
    }
    async with running(tmp_path, **chosen, **quota) as (_, address, _coordinator), http(address) as client:

        async def ask(tenant: str) -> httpx.Response:
            headers = {"x-api-key": secrets[tenant]}
            return await client.post("/v2/models/fashion-mlp/infer", json=body, headers=headers)

        spent = 0
        while (answer := await ask("modest")).status_code == 200:
            spent += answer.json()["parameters"]["compute_macs"]
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert "quota" in answer.json()["error"]
        assert 2 * request_macs <= spent <= 4 * request_macs
        assert [(await ask("other")).status_code for _ in range(6)] == [200] * 6
        scrape = (await client.get("/metrics", headers={"x-api-key": secrets["other"]})).text
    refused = [line for line in scrape.splitlines() if line.startswith("swan_shed_total{") and 'reason="quota"' in line]
    assert [float(line.rsplit(" ", 1)[1]) for line in refused] == [1.0]


async def test_the_console_is_served(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, address, _coordinator), http(address) as client:
        assert (await client.get("/")).headers["content-type"].startswith("text/html")
        overview = (await client.get("/console/overview")).json()
        assert "identity" in str(overview)
        assert (await client.get("/console/live")).status_code == 200


async def test_models_are_unloaded_and_loaded_while_serving(tmp_path: Path) -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [7]}]}
    async with running(tmp_path, admin_enabled=True) as (_, address, _coordinator), http(address) as client:
        assert (await client.post("/v2/repository/models/identity/unload")).status_code == 200
        assert (await client.post("/v2/models/identity/infer", json=body)).status_code in (404, 503)
        write_package(tmp_path / "models", version="2")
        assert (await client.post("/v2/repository/models/identity/load")).status_code == 200
        answer = (await client.post("/v2/models/identity/infer", json=body)).json()
        assert answer["model_version"] == "2"


async def test_one_bad_package_does_not_stop_the_others(tmp_path: Path) -> None:
    write_package(tmp_path / "models")
    write_package(tmp_path / "models", name="broken", import_path="tests.support.import_package:nothing")
    async with running(tmp_path) as (_, address, _coordinator), http(address) as client:
        states = {entry["name"]: entry["state"] for entry in (await client.post("/v2/repository/index")).json()}
        assert states == {"identity": "READY", "broken": "UNAVAILABLE"}
        assert (await client.get("/v2/models/broken")).status_code == 404


async def test_a_service_without_any_model_does_not_start(tmp_path: Path) -> None:
    write_package(tmp_path / "models", import_path="tests.support.import_package:nothing")
    with pytest.raises(ModelFailed):
        async with running(tmp_path):
            pass
    with pytest.raises(InvalidSetting, match="there are: identity"):
        async with running(tmp_path, models=("ghost",)):
            pass


async def test_durable_set_points_hold_until_an_operator_sends_others(tmp_path: Path) -> None:
    async with running(tmp_path, policy="shadow", admin_enabled=True) as (replica, address, _coordinator):
        assert replica.set_points.mode == "shadow"
        replica.configure({"max_budget": 0.8})
        assert (replica.set_points.mode, replica.set_points.max_budget) == ("shadow", 0.8)
        async with http(address) as client:
            await client.post("/v2/control", json={"mode": "freeze"})
        while replica.set_points.mode != "freeze":
            await asyncio.sleep(0)
        replica.configure({"max_budget": 0.6})
        assert replica.set_points.mode == "freeze"
        replica.check_health()
        assert replica.autoscaling_stats()["pending_requests"] == 0.0


def http(address: Address) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{address.http_port}", trust_env=False, timeout=60)


def node(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60)


async def test_the_replicas_of_a_node_share_a_port_for_its_metrics(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with running(tmp_path, metrics_port=port), running(tmp_path, metrics_port=port), node(port) as client:
        assert "swan_build_info{" in (await client.get("/metrics")).text
        assert (await client.get("/v2")).status_code == 404
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()


async def test_the_node_port_asks_for_the_same_key(tmp_path: Path) -> None:
    secret, key = create("ops", [Scope.METRICS])
    keys = tmp_path / "keys.json"
    KeyRing([key]).save(keys)
    (port,) = free_ports(1)
    async with running(tmp_path, metrics_port=port, api_keys_file=keys), node(port) as client:
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers={"authorization": f"Bearer {secret}"})).status_code == 200


async def test_caches_of_an_image_are_taken_and_not_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, home = tmp_path / "built" / "swan-serve", tmp_path / "home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(built.parent))
    async with running(tmp_path, profile_cache_dir=None) as (_, address, _coordinator), http(address) as client:
        assert 'source="measured"' in (await client.get("/metrics")).text
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    cached = {"profile_cache_dir": None, "image_cache_dir": built}
    async with running(tmp_path, **cached) as (_, address, _coordinator), http(address) as client:
        assert 'source="cached"' in (await client.get("/metrics")).text
    assert {path.name for path in (home / "swan-serve" / "profiles").glob("*.json")} == {
        path.name for path in (built / "profiles").glob("*.json")
    }


async def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = tmp_path / "built"
    built.mkdir()
    (built / "costs.json").write_text("{}")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    async with running(tmp_path, image_cache_dir=built) as (_, address, _coordinator), http(address) as client:
        assert (await client.get("/v2/health/ready")).status_code == 200
