"""Head and workers from the image on a bridge, started and configured as KubeRay does it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import httpx
import numpy as np
import pytest
import yaml

from tests.deploy.manifests import DEPLOY, only, pod_templates, render
from tests.image.containers import Container, require_container_tools, run
from tests.image.load import Answers, leaving_when_broken, running, tritonclient, while_ready
from tests.support.oip_clients import OipClient

pytestmark = [pytest.mark.deploy, pytest.mark.image, pytest.mark.timeout(900)]
WORKERS = 2
# KubeRay 1.7's readiness probe of a worker in a RayService
READY = (
    "wget --tries 1 -T 2 -q -O- http://localhost:52365/api/local_raylet_healthz | grep success && "
    "wget --tries 1 -T 10 -q -O- http://localhost:8000/-/healthz | grep success"
)
PICTURE = {"name": "INPUT", "datatype": "FP32", "shape": [1, 784], "data": [0.0] * 784}
BODY = {"inputs": [PICTURE], "parameters": {"deadline_policy": "best_effort"}}


@dataclass
class Cluster:
    head: Container
    workers: list[Container] = field(default_factory=list)

    def replicas(self) -> int:
        """Replicas that Ray Serve says are running."""
        answer = httpx.get(f"http://{self.head.ip}:8265/api/serve/applications/", trust_env=False, timeout=30)
        deployments = answer.json().get("applications", {}).get("swan", {}).get("deployments", {})
        return sum(replica["state"] == "RUNNING" for one in deployments.values() for replica in one["replicas"])


@pytest.fixture(scope="module")
def rendered() -> dict[str, object]:
    """What deploy/overlays/dev says: environment of every Ray process, start parameters, serve config."""
    documents = render(DEPLOY / "overlays" / "dev")
    service = only(documents, "RayService")
    environment = next(d["data"] for d in documents if d["kind"] == "ConfigMap" and "SWAN_METRICS_PORT" in d["data"])
    params = {name: group["rayStartParams"] for name, group in pod_templates(service)}
    return {"environment": environment, "params": params, "serve": yaml.safe_load(service["spec"]["serveConfigV2"])}


@pytest.fixture(scope="module")
def cluster(rendered: dict[str, object]) -> Iterator[Cluster]:
    require_container_tools()
    params = rendered["params"]
    with ExitStack() as stack:
        head = stack.enter_context(_node(rendered, ["--head", "--port=6379"], params["head"], "3g"))  # type: ignore[index]
        head.wait_until(lambda: _answers(f"http://{head.ip}:8265/api/version"), "the head's dashboard")
        address = [f"--address={head.ip}:6379"]
        workers = [stack.enter_context(_node(rendered, address, params["cpu"], "4g")) for _ in range(WORKERS)]  # type: ignore[index]
        found = Cluster(head, workers)
        config = _spread(rendered["serve"])  # type: ignore[arg-type]
        head.wait_until(lambda: _accepts(head, config), "the serve config")  # the operator sends it again, too
        seconds = head.wait_until(lambda: found.replicas() == WORKERS, "a replica on every worker")
        for worker in workers:
            worker.wait_until(lambda w=worker: w.succeeds("bash", "-c", READY), "KubeRay's readiness probe")  # type: ignore[misc]
        print(f"\nhead and {WORKERS} workers ready after {seconds:.1f} s")
        yield found


def _node(
    rendered: dict[str, object], role: list[str], params: dict[str, str], memory: str
) -> contextmanager[Container]:  # type: ignore[valid-type]
    options = [f"--env={key}={value}" for key, value in rendered["environment"].items()]  # type: ignore[attr-defined]
    flags = [*role, *(f"--{key}={value}" for key, value in params.items()), "--metrics-export-port=8080", "--block"]
    command = f"ulimit -n 20000; ray start {' '.join(flags)} --dashboard-agent-listen-port=52365"
    return run("/bin/bash", "-c", "--", command, memory=memory, options=options)


def _spread(config: dict[str, object]) -> dict[str, object]:
    """The overlay's config with a replica for each worker."""
    deployment = config["applications"][0]["deployments"][0]  # type: ignore[index]
    del deployment["autoscaling_config"]
    deployment.update(num_replicas=WORKERS, max_replicas_per_node=1)
    return config


def _accepts(head: Container, config: dict[str, object]) -> bool:
    try:
        url = f"http://{head.ip}:8265/api/serve/applications/"
        answer = httpx.put(url, json=config, trust_env=False, timeout=120)
    except httpx.TransportError as error:
        print(f"serve config: {error}")
        return False
    if answer.status_code != 200:
        print(f"serve config: {answer.status_code} {answer.text[-300:]}")
    return answer.status_code == 200


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def test_both_protocols_are_answered_on_every_worker(cluster: Cluster) -> None:
    for worker in cluster.workers:
        for kind in ("http", "grpc"):
            client = OipClient(kind, f"{worker.ip}:8000", f"{worker.ip}:8001")
            try:
                answer = client.infer("fashion-mlp", {"INPUT": np.zeros((1, 784), np.float32)})
                assert answer.as_numpy("PROBABILITIES").sum() == pytest.approx(1.0, abs=1e-4)
            finally:
                client.close()


def test_each_worker_tells_its_own_metrics(cluster: Cluster) -> None:
    """All requests go to one worker's ingress, which shares them out: the nodes' counts add up, and differ."""
    before = [_counted(worker) for worker in cluster.workers]
    url = f"http://{cluster.workers[0].ip}:8000/v2/models/fashion-mlp/infer"
    for _ in range(40):
        answer = httpx.post(url, json=BODY, trust_env=False, timeout=120)
        assert answer.status_code == 200, answer.text
    cluster.head.wait_until(
        lambda: sum(_counted(worker) for worker in cluster.workers) == sum(before) + 40, "all requests counted"
    )
    assert _counted(cluster.workers[0]) < sum(before) + 40
    ray = httpx.get(f"http://{cluster.workers[0].ip}:8080/metrics", trust_env=False, timeout=30).text
    assert "ray_serve_" in ray


def _counted(worker: Container) -> int:
    text = httpx.get(f"http://{worker.ip}:9400/metrics", trust_env=False, timeout=30).text
    return int(sum(float(n) for n in re.findall(r"^swan_requests_total\{[^}]*\} ([0-9.e+]+)$", text, re.M)))


def _in_work(worker: Container) -> float:
    try:
        text = httpx.get(f"http://{worker.ip}:9400/metrics", trust_env=False, timeout=30).text
    except httpx.ConnectError:  # the replicas of a node serve its metrics: there is none yet
        return 0.0
    return sum(float(n) for n in re.findall(r"^swan_pending_requests\{[^}]*\} ([0-9.e+]+)$", text, re.M))


def test_a_killed_worker_costs_no_request(cluster: Cluster) -> None:
    """SIGKILL under load: another ingress sends again what the worker had in work for it, as its own clients do."""
    survivor, victim = cluster.workers
    http, grpc, orphaned = Answers(), Answers(), Answers()
    clients = [tritonclient("http", survivor.ip, http)] * 3 + [tritonclient("grpc", survivor.ip, grpc)] * 2
    with running(*clients, *[leaving_when_broken(victim.ip, survivor.ip, orphaned)] * 2):
        for answers in (http, grpc, orphaned):
            survivor.wait_until(answers.more(5), "load")
        survivor.wait_until(lambda: _in_work(victim) > 0, "requests in work at the victim")
        victim.signal("KILL")
        began = time.monotonic()
        for answers in (http, grpc, orphaned):
            survivor.wait_until(answers.more(20), "load after the kill")
        seconds = time.monotonic() - began
    counts = f"HTTP {http.answered}, gRPC {grpc.answered}, of the killed ingress {orphaned.answered}"
    print(f"\nSIGKILL of a worker: answered: {counts}; sent again by them: {len(orphaned.sent_again)}; {seconds:.1f} s")
    assert (http.failures, grpc.failures, orphaned.failures) == ([], [], [])
    assert len(orphaned.sent_again) == 2


def test_a_terminated_worker_loses_nothing(cluster: Cluster, rendered: dict[str, object]) -> None:
    """A new worker takes the place and leaves by SIGTERM under load, its own clients once its probe fails."""
    survivor = cluster.workers[0]
    params = rendered["params"]["cpu"]  # type: ignore[index]
    http, grpc, own = Answers(), Answers(), Answers()
    with _node(rendered, [f"--address={cluster.head.ip}:6379"], params, "4g") as leaving:
        leaving.wait_until(lambda: leaving.succeeds("bash", "-c", READY), "a replica on the new worker")
        clients = [tritonclient("http", survivor.ip, http), tritonclient("grpc", survivor.ip, grpc)]
        with running(*clients, while_ready(leaving.ip, own)):
            for answers in (http, grpc, own):
                survivor.wait_until(answers.more(5), "load")
            survivor.wait_until(lambda: _in_work(leaving) > 0, "requests in work at the leaving worker")
            leaving.signal("TERM")
            began = time.monotonic()
            code = leaving.exit_code
            seconds, logs = time.monotonic() - began, leaving.logs
            for answers in (http, grpc):
                survivor.wait_until(answers.more(5), "load after it")
    counts = f"HTTP {http.answered}, gRPC {grpc.answered}, its own {own.answered}"
    print(f"\nSIGTERM of a worker: answered: {counts}; gone after {seconds:.1f} s with exit code {code}")
    assert (http.failures, grpc.failures, own.failures) == ([], [], [])
    limit_s = float(rendered["environment"]["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])  # type: ignore[index]
    assert seconds < limit_s and "did not finish draining" not in logs
    assert code == 1  # `ray start --block` always ends so after SIGTERM (ray/_private/node.py): 0 is not to be had
