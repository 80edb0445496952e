"""SIGHUP replaces all replicas while clients of both protocols go on: no request fails."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from tests.e2e.running_service import RunningService, echo_config, start_service

pytestmark = [pytest.mark.ray, pytest.mark.e2e]


class Traffic(threading.Thread):
    """Sends one request after another until told to stop; counts answers and keeps what went wrong."""

    def __init__(self, send: Callable[[], bytes]) -> None:
        super().__init__(daemon=True)
        self._send = send
        self._stop_sending = threading.Event()
        self.answered = 0
        self.problems: list[str] = []

    def run(self) -> None:
        while not self._stop_sending.wait(0.01):  # light load; the wait is also what ends it
            try:
                if self._send() != b"0.01":
                    self.problems.append("a wrong answer")
                self.answered += 1
            except Exception as error:
                self.problems.append(repr(error))

    def end(self) -> None:
        self._stop_sending.set()
        self.join()


def replicas(service: RunningService) -> set[psutil.Process]:
    return set(service.named("ray::ServeReplica"))


def test_a_rolling_update_loses_nothing(tmp_path: Path) -> None:
    service = start_service(tmp_path, "--replicas", "2", config=echo_config(tmp_path))
    service.wait_greeted()
    before = replicas(service)
    client = httpx.Client(base_url=f"http://{service.http}", trust_env=False, timeout=60)
    with grpc.insecure_channel(service.grpc) as channel, client:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")

        def over_http() -> bytes:
            answer = client.post("/v2/echo", content=b"0.01").raise_for_status()
            return answer.content

        traffic = [Traffic(over_http), Traffic(lambda: b"".join(call(iter([b"0.01"]), timeout=60)))]
        for one in traffic:
            one.start()
        service.process.send_signal(signal.SIGHUP)
        service.wait_for("✓ Replacing the replicas")
        for one in traffic:
            one.end()
    after = replicas(service)
    assert service.stop() == 0
    assert len(before) == len(after) == 2
    assert not before & after
    assert [one.problems for one in traffic] == [[], []]
    assert all(one.answered for one in traffic)
