from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, RemoteDisconnected

import psutil
import pytest

from service.inference.limits import Limits
from tests.support.oip_server import OipServer

# a case may hold a body and its decompressed form; beyond that the process must not grow
MEMORY_BOUND_BYTES = 400 << 20
LIMITS = Limits(max_body_bytes=8 << 20, body_timeout_s=2.0, header_timeout_s=2.0)


@dataclass
class Target:
    """The server under fire. `ask` posts one body; `check` says that the server lives and has not grown."""

    server: OipServer
    connection: HTTPConnection
    start_bytes: int
    cases: int = 0

    def ask(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        self.cases += 1
        try:
            self.connection.request("POST", path, body, headers)
            answer = self.connection.getresponse()
            content = answer.read()
        except OSError:
            self.connection.close()  # the next case starts afresh
            raise
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content

    def _live(self) -> HTTPResponse:
        try:
            self.connection.request("GET", "/v2/health/live")
            return self.connection.getresponse()
        except RemoteDisconnected:  # the server ends connections that rest for seconds; on a busy machine one does
            self.connection.close()
            self.connection.request("GET", "/v2/health/live")
            return self.connection.getresponse()

    def check(self) -> None:
        answer = self._live()
        assert (answer.status, answer.read()) == (200, b'{"live":true}')
        grown = psutil.Process().memory_info().rss - self.start_bytes
        assert grown < MEMORY_BOUND_BYTES, f"{grown} bytes more than at the start after {self.cases} cases"


@pytest.fixture(scope="module")
def server() -> Iterator[OipServer]:
    with OipServer(limits=LIMITS).running() as running:
        running.slow.release.release(1_000_000)  # nobody here waits for it
        yield running


@pytest.fixture(scope="module")
def target(server: OipServer) -> Iterator[Target]:
    connection = HTTPConnection(server.address.host, server.address.http_port, timeout=30)
    connection.auto_open = 1
    yield Target(server, connection, psutil.Process().memory_info().rss)
    connection.close()


@pytest.fixture(scope="module")
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
