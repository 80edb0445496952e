"""Many requests at once, big ones, connections that live long and clients that leave."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any

import numpy as np
import orjson
import pytest
from tritonclient import http as triton_http
from tritonclient.grpc import aio as grpc_aio
from tritonclient.http import aio as http_aio

from service.errors import Cancelled
from tests.support.oip_clients import OipClient, int32
from tests.support.oip_server import OipServer
from tests.support.raw_http import connect

FIRST_BYTES = 12


async def test_concurrent_http_equals_serial(server: OipServer) -> None:
    async with http_aio.InferenceServerClient(server.http_url, conn_limit=32) as client:
        await _compare(client, http_aio)


async def test_concurrent_grpc_equals_serial(server: OipServer) -> None:
    async with grpc_aio.InferenceServerClient(server.grpc_url) as client:
        await _compare(client, grpc_aio)


async def _compare(client: Any, module: Any) -> None:
    from tritonclient import grpc as triton_grpc

    kind = triton_grpc if module is grpc_aio else triton_http
    random = np.random.default_rng(5)
    rows = [random.integers(-9, 10, (int(random.integers(1, 9)), 8)).astype(np.float64) for _ in range(64)]

    async def ask(index: int) -> tuple[Any, str]:
        tensor = kind.InferInput("x", list(rows[index].shape), "FP64")
        tensor.set_data_from_numpy(rows[index])
        quality = ("0.25", "0.5", "full")[index % 3]
        answer = await client.infer("gated", [tensor], request_id=str(index), parameters={"quality": quality})
        response = answer.get_response()
        return answer.as_numpy("y"), response["id"] if isinstance(response, dict) else response.id

    serial = [await ask(index) for index in range(64)]
    together = await asyncio.gather(*(ask(index) for index in range(64)))
    for index, (one, other) in enumerate(zip(serial, together, strict=True)):
        assert one[1] == other[1] == str(index)
        np.testing.assert_array_equal(one[0], other[0])


def test_24_megabytes(client: OipClient) -> None:
    array = np.arange(6 << 20, dtype=np.float32).reshape(2, -1)
    result = client.infer("identity_fp32", {"x": array})
    np.testing.assert_array_equal(result.as_numpy("y"), array)


def test_async_infer_of_the_blocking_client(server: OipServer) -> None:
    client = triton_http.InferenceServerClient(server.http_url, concurrency=8)
    tensor = triton_http.InferInput("x", [1, 1], "INT32")
    pending = []
    for value in range(40):
        tensor = triton_http.InferInput("x", [1, 1], "INT32")
        tensor.set_data_from_numpy(int32(value))
        pending.append(client.async_infer("identity_int32", [tensor]))
    assert [int(one.get_result().as_numpy("y")[0, 0]) for one in pending] == list(range(40))
    client.close()


def post(body: bytes, path: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def infer_body(value: int) -> bytes:
    return orjson.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "INT32", "data": [value]}]})


def test_one_connection_serves_many_requests(server: OipServer) -> None:
    with connect(server) as connection, connection.makefile("rb") as reader:
        for value in range(50):
            connection.sendall(post(infer_body(value), "/v2/models/identity_int32/infer"))
            assert reader.readline().startswith(b"HTTP/1.1 200")
            headers = {}
            while (line := reader.readline()) != b"\r\n":
                name, _, content = line.partition(b":")
                headers[name.lower()] = content.strip()
            answer = orjson.loads(reader.read(int(headers[b"content-length"])))
            assert answer["outputs"][0]["data"] == [value]


def test_pipelined_requests_are_answered_in_order(server: OipServer) -> None:
    with connect(server) as connection, connection.makefile("rb") as reader:
        connection.sendall(b"".join(post(infer_body(value), "/v2/models/identity_int32/infer") for value in range(5)))
        found: list[int] = []
        while len(found) < 5:
            line = reader.readline()
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
                while reader.readline() != b"\r\n":
                    pass
                found.append(orjson.loads(reader.read(length))["outputs"][0]["data"][0])
    assert found == [0, 1, 2, 3, 4]


class Fates:
    """A RequestObserver that lets a test wait for the fate of a request."""

    def __init__(self) -> None:
        self.refused_with: concurrent.futures.Future[BaseException] = concurrent.futures.Future()

    def answered(self, work: Any, completion: Any, latency_s: float) -> None:
        """Not of interest here."""

    def refused(self, model: str, version: str, error: BaseException, latency_s: float) -> None:
        self.refused_with.set_result(error)


@pytest.mark.parametrize("protocol", ["http", "grpc", "grpc stream"])
def test_leaving_client_cancels_its_request(protocol: str) -> None:
    fates = Fates()
    with OipServer(observers=[fates]).running() as server:
        if protocol == "http":
            with connect(server) as connection:
                connection.sendall(post(infer_body(1), "/v2/models/slow/infer"))
                assert server.slow.entered.acquire(timeout=30)
        elif protocol == "grpc":
            asyncio.run(_cancel_grpc(server))
        else:
            _cancel_stream(server)
        assert isinstance(fates.refused_with.result(30), Cancelled)


async def _cancel_grpc(server: OipServer) -> None:
    from tritonclient import grpc as triton_grpc

    tensor = triton_grpc.InferInput("x", [1, 1], "INT32")
    tensor.set_data_from_numpy(int32(1))
    async with grpc_aio.InferenceServerClient(server.grpc_url) as client:
        asking = asyncio.create_task(client.infer("slow", [tensor]))
        await asyncio.to_thread(server.slow.entered.acquire, timeout=30)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


def _cancel_stream(server: OipServer) -> None:
    from tritonclient import grpc as triton_grpc

    tensor = triton_grpc.InferInput("x", [1, 1], "INT32")
    tensor.set_data_from_numpy(int32(1))
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: None)
        client.async_stream_infer("slow", [tensor])
        assert server.slow.entered.acquire(timeout=30)
        client.stop_stream(cancel_requests=True)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("kind", ["http", "http.aio"])
def test_compression_as_the_http_clients_do_it(server: OipServer, kind: str, algorithm: str) -> None:
    client = OipClient(kind, server.http_url, server.grpc_url)
    array = np.arange(10_000, dtype=np.float32).reshape(2, -1)
    more = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
    np.testing.assert_array_equal(client.infer("identity_fp32", {"x": array}, **more).as_numpy("y"), array)
    client.close()


def test_leaving_in_the_middle_of_a_body(server: OipServer) -> None:
    for sent in (b"", b"{", b'{"inputs":'):
        with connect(server) as connection:
            head = b"POST /v2/models/identity_int32/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n"
            connection.sendall(head + sent)
    with connect(server) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert connection.recv(FIRST_BYTES) == b"HTTP/1.1 200"
