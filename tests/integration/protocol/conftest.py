from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.oip_clients import KINDS, OipClient
from tests.support.oip_server import OipServer


@pytest.fixture(scope="module")
def server() -> Iterator[OipServer]:
    with OipServer().running() as running:
        yield running


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, server: OipServer) -> Iterator[OipClient]:
    made = OipClient(request.param, server.http_url, server.grpc_url)
    yield made
    made.close()
