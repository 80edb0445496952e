"""The Ray side alone, with a replica that echoes: mounting, set-points, drain, nothing left behind."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.e2e.running_service import RunningService, echo_config, get, start_service

pytestmark = [pytest.mark.ray, pytest.mark.e2e]


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("echo")
    service = start_service(folder, config=echo_config(folder))
    try:
        service.wait_ready()
        yield service
    finally:
        service.stop()


def test_both_protocols_reach_the_replica_through_one_hop(echo: RunningService) -> None:
    assert tritonclient.http.InferenceServerClient(echo.http).is_server_live()
    with tritonclient.grpc.InferenceServerClient(echo.grpc) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
    assert echo.named("haproxy")


def test_bytes_travel_unchanged(echo: RunningService) -> None:
    body = bytes(range(256)) * 4096 * 24
    answer = httpx.post(f"http://{echo.http}/echo", content=body, trust_env=False, timeout=60)
    assert answer.status_code == 200
    assert answer.content == body
    with grpc.insecure_channel(echo.grpc) as channel:
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        messages = [b"one", b"", b"three" * 1000]
        assert list(stream(iter(messages), timeout=60)) == messages


def test_metadata_deadline_and_status_pass_the_ingress(echo: RunningService) -> None:
    with tritonclient.grpc.InferenceServerClient(echo.grpc) as client:
        metadata = client.get_server_metadata(headers={"note": "hello"}, client_timeout=30)
        assert metadata.name == "hello True"
        assert client.get_server_metadata().name == "None False"
        with pytest.raises(InferenceServerException, match="no such model") as caught:
            client.get_model_metadata("ghost")
    assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_health_and_reflection_are_mounted(echo: RunningService) -> None:
    with grpc.insecure_channel(echo.grpc) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=30) == b"\x08\x01"
        assert next(channel.unary_stream("/grpc.health.v1.Health/Watch")(b"x", timeout=30)) == b"x"
        for version in ("v1", "v1alpha"):
            method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            assert list(channel.stream_stream(method)(iter([b"r"]), timeout=30)) == [b"r"]


def test_a_set_point_reaches_the_replica(echo: RunningService) -> None:
    assert get(echo, "/set-points").text == "auto"
    assert httpx.post(f"http://{echo.http}/publish", content="freeze", trust_env=False, timeout=60).status_code == 200
    seen = ""
    while seen != "freeze":  # the test's own timeout ends it
        seen = get(echo, "/set-points").text


def test_a_port_in_use_is_one_clear_line(echo: RunningService, tmp_path: Path) -> None:
    second = start_service(tmp_path, "--port", str(echo.http_port), config=echo_config(tmp_path))
    assert second.process.wait(timeout=60) == 2
    assert f"port {echo.http_port} is in use" in second.output
    assert "--port" in second.output
    assert "Traceback" not in second.output


def slow_http(service: RunningService, path: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nconnection: close\r\n\r\n2.0"
    with socket.create_connection(("127.0.0.1", service.http_port)) as connection:
        connection.sendall(head.encode())
        return connection.makefile("rb").read()


def slow_grpc(service: RunningService) -> bytes:
    with grpc.insecure_channel(service.grpc) as channel:
        answer: bytes = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"2.0", timeout=60)
        return answer


def test_a_signal_drains_and_leaves_nothing(tmp_path: Path) -> None:
    """Whatever way a request took to the replica, it is answered."""
    service = start_service(tmp_path, config=echo_config(tmp_path))
    service.wait_ready()
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(slow_http, service, path) for path in ("/slow", "/v2/slow")]
        waiting.append(pool.submit(slow_grpc, service))
        while get(service, "/in-flight").text != "3":
            pass
        processes = service.processes()
        assert service.stop(signal.SIGINT) == 0
        answers = [one.result() for one in waiting]
    assert all(answer.endswith(b"slept") for answer in answers), answers
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert alive == []
