"""Replicas on two nodes of one Ray cluster: one node is killed under load, and every request is answered."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
import yaml

from service.launcher.ray_environment import free_ports
from tests.support.import_package import write_package

pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.deploy, pytest.mark.slow]
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
        deployments = self.client.get_serve_details()["applications"].get("swan", {}).get("deployments", {})
        replicas = deployments.get("ModelServer", {}).get("replicas", [])
        return {one["node_id"] for one in replicas if one["state"] == "RUNNING"}

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
        "RAY_worker_niceness": "0",  # as deployed: the default of 15 starves replicas on a crowded machine
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
    del deployment["autoscaling_config"]
    deployment.update(num_replicas=2, max_replicas_per_node=1, health_check_period_s=1, health_check_timeout_s=5)
    content["http_options"].update(host="127.0.0.1", port=http_port)
    content["grpc_options"].update(port=grpc_port)
    client = serve_start(content["http_options"], content["grpc_options"], proxy_location="HeadOnly")
    client.deploy_apps(ServeDeploySchema.model_validate(content))
    found = TwoNodes(cluster, nodes, client, f"http://127.0.0.1:{http_port}/v2/models/identity/infer")
    found.wait_for_replicas(2)
    return found


@dataclass
class Answers:
    """Of closed-loop clients: attempts that each answered request took, and what its failed attempts got."""

    attempts: list[int] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)

    def send_until(self, stop: Event, url: str) -> None:
        """Request after request; one that fails with the node is sent again, since inference is idempotent."""
        with httpx.Client(trust_env=False, timeout=120) as client:
            while not stop.is_set():
                attempt = 1
                while (status := client.post(url, json=BODY).status_code) != 200:
                    self.failures.append(status)
                    attempt += 1
                self.attempts.append(attempt)

    def wait_for_more(self, count: int) -> None:
        goal, deadline = len(self.attempts) + count, time.monotonic() + LIMIT_S
        while len(self.attempts) < goal:
            assert time.monotonic() < deadline, f"{len(self.attempts)} of {goal} answers; failed: {self.failures}"
            time.sleep(0.05)


def test_a_node_dies_under_load_and_every_request_is_answered(two_nodes: TwoNodes) -> None:
    """Every request gets its 200. Sent twice at most: what the node had in work, and what was routed to it too late."""
    assert two_nodes.replica_nodes() == {node.node_id for node in two_nodes.nodes}
    answers = Answers()
    stop = Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(answers.send_until, stop, two_nodes.url) for _ in range(CLIENTS)]
        try:
            answers.wait_for_more(100)
            assert answers.failures == []
            two_nodes.ray.remove_node(two_nodes.nodes[0], allow_graceful=False)
            answers.wait_for_more(300)
            two_nodes.ray.add_node(num_cpus=1, **SMALL)
            two_nodes.wait_for_replicas(2)
            failures = list(answers.failures)
            answers.wait_for_more(100)
        finally:
            stop.set()
        for client in clients:
            client.result()  # raises what a request got instead of an answer
    print(f"\n{len(answers.attempts)} requests answered; failed attempts: {failures}")
    assert set(failures) <= {500, 503} and len(failures) <= 4 * CLIENTS
    assert answers.failures == failures  # none once the node was replaced
