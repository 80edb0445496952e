"""`swan serve` with model packages: real clients, lines that work as printed, a killed replica, coordinator and key."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import numpy as np
import psutil
import pytest

from tests.e2e.running_service import RunningService, get, start_service
from tests.support.import_package import write_package
from tests.support.oip_clients import KINDS, OipClient

pytestmark = [pytest.mark.ray, pytest.mark.e2e]
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("served")
    write_package(folder / "models", labels=["a", "b", "c", "d"])
    write_package(folder / "models", name="copy", inputs=[{"name": "x", "datatype": "FP32", "shape": [900]}])
    service = start_service(
        folder,
        *("--models", str(folder / "models"), "--replicas", "2", "--proxy", "haproxy"),
        SWAN_ADMIN_ENABLED="1",
        SWAN_PROFILE_CACHE_DIR=str(folder / "profiles"),
    )
    try:
        service.wait_greeted()
        yield service
    finally:
        service.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_every_client_of_tritonclient_gets_its_rows_back(served: RunningService, kind: str) -> None:
    client = OipClient(kind, served.http, served.grpc)
    try:
        assert client.call("is_server_ready")
        answer = client.infer("identity", {"x": ROWS})
        np.testing.assert_array_equal(answer.as_numpy("y"), ROWS)
        assert client.parameters(answer)["quality_budget"] == 1.0
    finally:
        client.close()


def test_the_printed_lines_work_as_printed(served: RunningService) -> None:
    lines = [line.strip() for line in served.output.splitlines()]
    shell = [line for line in lines if line.startswith(("curl ", "python "))]
    assert len(shell) == 2, served.output
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for line in shell:
        ran = subprocess.run(
            line, shell=True, capture_output=True, text=True, timeout=120, env={**os.environ, "PATH": path}, check=False
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.strip(), line
        assert "error" not in ran.stdout, ran.stdout


def test_metrics_hold_all_replicas(served: RunningService) -> None:
    before = _settled(served)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: _post(served, "/v2/models/identity/infer", body).status_code, range(40)))
    assert statuses == [200] * 40
    while _answered(served) < before + 40:  # replicas publish ten times a second; the test's own timeout ends it
        pass
    assert _answered(served) == before + 40


def test_a_set_point_reaches_every_replica(served: RunningService) -> None:
    assert _post(served, "/v2/control", {"mode": "freeze"}).json()["version"] > 0
    while get(served, "/metrics").text.count('mode="freeze",model="identity",version="1"} 1.0') < 1:
        pass
    _post(served, "/v2/control", {"mode": "auto"})


def test_a_killed_replica_is_replaced(served: RunningService) -> None:
    replicas = served.named("ray::ServeRepl")
    assert len(replicas) == 2
    replicas[0].kill()
    psutil.wait_procs(replicas[:1], timeout=30)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}
    while len(served.named("ray::ServeRepl")) < 2:  # the test's own timeout ends it
        pass
    while _post(served, "/v2/models/identity/infer", body).status_code != 200:
        pass


def test_a_lost_coordinator_is_replaced_and_remembers(served: RunningService) -> None:
    version = _post(served, "/v2/control", {"max_budget": 0.9}).json()["version"]
    (coordinator,) = served.named("ray::Coordinat")
    coordinator.kill()
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}
    assert _post(served, "/v2/models/identity/infer", body).status_code == 200
    answer = get(served, "/v2/control")
    while answer.status_code != 200 or answer.json()["version"] < version:
        answer = get(served, "/v2/control")
    assert answer.json()["max_budget"] == 0.9


def test_whoever_watches_its_health_hears_that_it_ends(served: RunningService) -> None:
    """The last test: it ends the service."""
    with grpc.insecure_channel(served.grpc) as channel:
        statuses = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=60)
        assert next(statuses) == b"\x08\x01"
        served.process.send_signal(signal.SIGTERM)
        assert next(statuses) == b"\x08\x02"
        assert served.stop() == 0


def _post(service: RunningService, path: str, body: object) -> httpx.Response:
    return httpx.post(f"http://{service.http}{path}", json=body, trust_env=False, timeout=60)


def _settled(service: RunningService) -> float:
    """The count once it stands still: the replica that is not asked publishes up to 0.1 s after its last answer."""
    began, count = time.monotonic(), _answered(service)
    while time.monotonic() - began < 0.5:
        now = _answered(service)
        if now != count:
            began, count = time.monotonic(), now
    return count


def _answered(service: RunningService) -> float:
    lines = get(service, "/metrics").text.splitlines()
    ok = [line for line in lines if line.startswith("swan_requests_total{") and 'model="identity"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in ok if '"ok"' in line or '"late"' in line)
