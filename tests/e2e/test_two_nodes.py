"""Replicas on two nodes of one Ray cluster: one node is killed under load, and every request is answered."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
import yaml

from service.launcher.ray_environment import free_ports
from tests.support.import_package import write_package

# nightly until it has passed once on a quiet machine: at a load of 10 to 30 its proxy did not start within Ray's limit
pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.deploy, pytest.mark.nightly]
ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 200.0
CLIENTS = 4
SMALL = {"object_store_memory": 80 << 20}
BODY = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}],
    "parameters": {"deadline_policy": "best_effort"},
}


@dataclass(frozen=True)
class TwoNodes:
    """A head that holds the proxy, two nodes that hold a replica each."""

    ray: Any  # ray.cluster_utils.Cluster
    nodes: list[Any]
    client: Any
    url: str

    def replica_nodes(self) -> set[str]:
        """Ids of the nodes with a running replica."""
        details = self.client.get_serve_details()["applications"]["swan"]["deployments"]["ModelServer"]
        return {one["node_id"] for one in details["replicas"] if one["state"] == "RUNNING"}

    def wait_for_replicas(self, count: int) -> None:
        deadline = time.monotonic() + LIMIT_S
        while len(self.replica_nodes()) < count:
            assert time.monotonic() < deadline, self.client.get_serve_details()
            time.sleep(0.1)


@pytest.fixture
def two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoNodes]:
    write_package(tmp_path / "models")
    short = tempfile.TemporaryDirectory(prefix="swan-", dir="/tmp")  # unix sockets end at 107 characters
    environment = {
        "RAY_TMPDIR": short.name,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # a proxy that a crowded machine lets start slowly is no failure
        # HAProxy would want the same ports of the one host for every node: the containers' test has it
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        "SWAN_PROFILE_CACHE_DIR": str(tmp_path / "profiles"),
        "SWAN_MODELS_DIR": str(tmp_path / "models"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    with short:
        (Path(short.name) / "ray").mkdir()  # Ray's Cluster writes its address there before it exists
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **SMALL})
        try:
            nodes = [cluster.add_node(num_cpus=1, **SMALL) for _ in range(2)]
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", namespace="serve")
            yield _deployed(cluster, nodes)
        finally:
            serve.shutdown()
            ray.shutdown()
            cluster.shutdown()


def _deployed(cluster: Any, nodes: list[Any]) -> TwoNodes:
    """The shipped serve config with a replica on each node, behind the head's proxy."""
    from ray.serve._private.api import serve_start
    from ray.serve.schema import ServeDeploySchema

    content = yaml.safe_load((ROOT / "deploy/base/serve-config.yaml").read_text(encoding="utf-8"))
    http_port, grpc_port = free_ports(2)
    content["proxy_location"] = "HeadOnly"
    deployment = content["applications"][0]["deployments"][0]
    deployment.update(num_replicas=2, max_replicas_per_node=1, health_check_period_s=1, health_check_timeout_s=5)
    content["http_options"].update(host="127.0.0.1", port=http_port)
    content["grpc_options"].update(port=grpc_port)
    client = serve_start(content["http_options"], content["grpc_options"], proxy_location="HeadOnly")
    client.deploy_apps(ServeDeploySchema.model_validate(content))
    found = TwoNodes(cluster, nodes, client, f"http://127.0.0.1:{http_port}/v2/models/identity/infer")
    found.wait_for_replicas(2)
    return found


def test_a_node_dies_under_load_and_every_request_is_answered(two_nodes: TwoNodes) -> None:
    placed = two_nodes.replica_nodes()
    assert placed == {node.node_id for node in two_nodes.nodes}
    statuses: list[int] = []
    stop = Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(_send_until, two_nodes.url, stop, statuses) for _ in range(CLIENTS)]
        try:
            _wait_for_more(statuses, 100)
            two_nodes.ray.remove_node(two_nodes.nodes[0], allow_graceful=False)
            _wait_for_more(statuses, 300)
            two_nodes.ray.add_node(num_cpus=1, **SMALL)
            two_nodes.wait_for_replicas(2)
            recovered = len(statuses)
            _wait_for_more(statuses, 100)
        finally:
            stop.set()
        for client in clients:
            client.result()  # raises what a request got instead of an answer
    failed = [status for status in statuses if status != 200]
    print(f"\n{len(statuses)} requests, {len(failed)} of them failed with the node: {sorted(set(failed))}")
    assert set(statuses[recovered + CLIENTS :]) == {200}
    assert set(failed) <= {500, 503}
    assert len(failed) <= 4 * CLIENTS  # what it had in work, and what was sent before the proxy knew


def _send_until(url: str, stop: Event, statuses: list[int]) -> None:
    with httpx.Client(trust_env=False, timeout=120) as client:
        while not stop.is_set():
            statuses.append(client.post(url, json=BODY).status_code)


def _wait_for_more(statuses: list[int], count: int) -> None:
    goal, deadline = len(statuses) + count, time.monotonic() + LIMIT_S
    while len(statuses) < goal:
        assert time.monotonic() < deadline, f"{len(statuses)} of {goal} answers"
        time.sleep(0.05)
