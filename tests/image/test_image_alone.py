"""The image by itself, as `docker run` starts it: hardened, ready, both protocols, warm caches, drained by SIGTERM."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from tests.image.containers import IMAGE, Container, podman, require_container_tools, run
from tests.support.oip_clients import KINDS, OipClient

pytestmark = [pytest.mark.deploy, pytest.mark.image, pytest.mark.timeout(600)]
PATIENT = {"deadline_policy": "best_effort"}  # the machine of a test may be crowded
SLOW_MODEL = "minilm-embedder"
MODELS = ("fashion-mlp", "fashion-resnet")
# runs in the container: which library or kernel the CPU capability gives, and its answer to fixed numbers
KERNEL_PROBE = """
import json, logging, sys, time, torch
logging.disable(logging.WARNING)
from pathlib import Path
from service.host.image_cache import link
from swan_runtime.kernels import rows
from swan_runtime.kernels.native import library
from swan_runtime.cache import cache_directory
from swan_runtime.kernels.weights import MlpWeights
link(Path("/opt/swan/swan-serve"), cache_directory())
g = torch.Generator().manual_seed(0)
up, down, x = (torch.randn(*shape, generator=g) for shape in ((64, 32), (16, 64), (5, 32)))
mask = torch.rand(5, 64, generator=g) < 0.5
w = MlpWeights.pack(up, None, down, None, activation="relu")
kernel = "native" if library() else "numba"
y = rows.run(kernel, w, x, mask, 1)
from_cache = None
if kernel == "numba":
    from swan_runtime.kernels import numba_rows
    from_cache = sum(numba_rows._rows.stats.cache_hits.values())
print(json.dumps([kernel, library().path.name if library() else "", y.tolist(), from_cache]))
"""


@pytest.fixture(scope="module")
def alone() -> Iterator[Container]:
    require_container_tools()
    with run(memory="4g") as container:
        seconds = container.wait_until(lambda: _ready(container), "ready")
        size = int(podman("image", "inspect", "--format", "{{.Size}}", IMAGE).stdout)
        print(f"\n{IMAGE}: {size / 1e6:.0f} MB, ready after {seconds:.1f} s\n{container.logs}")
        yield container


def _ready(container: Container) -> bool:
    try:
        return httpx.get(f"http://{container.ip}:8000/v2/health/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _metrics(container: Container) -> str:
    return httpx.get(f"http://{container.ip}:8000/metrics", trust_env=False, timeout=30).text


def test_it_runs_without_any_right_that_it_does_not_need(alone: Container) -> None:
    status = alone.exec("cat", "/proc/1/status")
    assert re.findall(r"^Uid:\s+1000\s+1000", status, re.M) and re.findall(r"^CapEff:\s+0+$", status, re.M)
    assert re.findall(r"^NoNewPrivs:\s+1", status, re.M)
    assert not alone.succeeds("touch", "/opt/venv/x") and not alone.succeeds("touch", "/etc/swan/x")
    assert alone.inspect()["HostConfig"]["Memory"] == 4 << 30


def test_what_kuberay_runs_in_a_pod_is_there(alone: Container) -> None:
    for program in ("bash", "wget", "grep", "python", "ray", "ps"):
        assert alone.succeeds("bash", "-c", f"command -v {program}"), program
    for compiler in ("cc", "gcc", "clang"):
        assert not alone.succeeds("bash", "-c", f"command -v {compiler}"), compiler


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_tritonclient_is_answered(alone: Container, model: str, kind: str) -> None:
    client = OipClient(kind, f"{alone.ip}:8000", f"{alone.ip}:8001")
    try:
        answer = client.infer(model, {"INPUT": np.zeros((1, 784), np.float32)}, parameters=PATIENT)
        assert answer.as_numpy("PROBABILITIES").sum() == pytest.approx(1.0, abs=1e-4)
        assert client.parameters(answer)["compute_macs"] > 0
    finally:
        client.close()


def test_text_is_embedded(alone: Container) -> None:
    client = OipClient("grpc", f"{alone.ip}:8000", f"{alone.ip}:8001")
    try:
        answer = client.infer("minilm-embedder", {"TEXT": np.array([["a small boat"]], object)}, parameters=PATIENT)
        assert np.linalg.norm(answer.as_numpy("EMBEDDING")) == pytest.approx(1.0, abs=1e-3)
    finally:
        client.close()


def test_nothing_is_compiled_or_measured_at_the_start(alone: Container) -> None:
    """The image was built on this machine: its profiles and cost tables are this CPU's."""
    sources = re.findall(r'^swan_profile_info\{[^}]*source="(\w+)"', _metrics(alone), re.M)
    assert sources and set(sources) == {"cached"}
    built, used = (set(alone.exec("find", folder, "-name", "*.json", "-printf", "%f\n").split()) for folder in CACHES)
    assert built == used


CACHES = ("/opt/swan/swan-serve", "/tmp/.cache/swan-serve")


def test_every_cpu_family_has_its_kernels(alone: Container) -> None:
    """One machine stands for three: torch's own switch says what the CPU can do."""
    flags = set(alone.exec("grep", "-m1", "flags", "/proc/cpuinfo").split())
    families = [name for name, flag in (("AVX512", "avx512f"), ("AVX2", "avx2"), ("DEFAULT", "sse2")) if flag in flags]
    found = {name: _probe(alone, name) for name in families}
    for name, (kernel, library, answer, _) in found.items():
        assert kernel == ("numba" if name == "DEFAULT" else "native")
        assert (f"_{name.lower()}_" in library) == (name != "DEFAULT")
        np.testing.assert_allclose(answer, found["DEFAULT"][2], rtol=1e-4, atol=1e-4)
    assert found["DEFAULT"][3] == 1  # the compiled Numba kernel came with the image
    assert "AVX2" in found


def _probe(container: Container, capability: str) -> tuple[str, str, list[list[float]], int | None]:
    printed = container.exec("python", "-c", KERNEL_PROBE, environment={"ATEN_CPU_CAPABILITY": capability.lower()})
    kernel, library, answer, hits = json.loads(printed.splitlines()[-1])
    return kernel, library, answer, hits


def test_the_health_check_of_the_image_holds(alone: Container) -> None:
    check = json.loads(podman("image", "inspect", "--format", "{{json .HealthCheck}}", IMAGE).stdout)
    assert check["Test"][0] == "CMD" and alone.succeeds(*check["Test"][1:])


def test_the_image_says_what_it_is() -> None:
    require_container_tools()
    labels = json.loads(podman("image", "inspect", "--format", "{{json .Labels}}", IMAGE).stdout)
    named = {key.removeprefix("org.opencontainers.image.") for key in labels}
    assert {"title", "description", "licenses", "version", "revision"} <= named


def test_a_termination_answers_what_is_in_work_and_ends_with_zero() -> None:
    """SIGTERM while 8 requests are queued or computing: each is answered, ready turns false, the exit code is 0."""
    require_container_tools()
    count = 8
    with run(memory="4g") as container, ThreadPoolExecutor(count + 1) as pool:
        container.wait_until(lambda: _ready(container), "ready")
        answers = [pool.submit(_slow_request, container.ip) for _ in range(count)]
        container.wait_until(lambda: _received(container) == count, "all requests received")
        in_work = sum(not answer.done() for answer in answers)
        refusal = pool.submit(_until_turned_away, container.ip)
        container.signal("TERM")
        assert [answer.result() for answer in answers] == [200] * count
        assert in_work > 0, "the requests were too fast to be in work"
        assert refusal.result() != 200
        assert container.exit_code == 0, container.logs


def _slow_request(host: str) -> int:
    texts = [f"{number} " + "a small boat on a wide and quiet lake " * 5 for number in range(16)]
    inputs = [{"name": "TEXT", "datatype": "BYTES", "shape": [len(texts), 1], "data": texts}]
    body = {"inputs": inputs, "parameters": {"quality": "full", **PATIENT}}
    url = f"http://{host}:8000/v2/models/{SLOW_MODEL}/infer"
    return httpx.post(url, json=body, trust_env=False, timeout=120).status_code


def _received(container: Container) -> int:
    """Requests for the slow model that the service has: answered or not."""
    counted = re.findall(
        rf'^swan_(?:requests_total|pending_requests)\{{[^}}]*model="{SLOW_MODEL}"[^}}]*\}} ([0-9.e+]+)$',
        _metrics(container),
        re.M,
    )
    return int(sum(float(value) for value in counted))


def _until_turned_away(host: str) -> int:
    """Status of the first readiness check that does not hold; 0 = nobody listens any more."""
    status = 200
    while status == 200:
        try:
            status = httpx.get(f"http://{host}:8000/v2/health/ready", trust_env=False).status_code
        except httpx.TransportError:
            status = 0
    return status
