"""Every limit, set small: what is over it gets a typed refusal, and the server answers the next request."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import orjson
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.inference.limits import Limits
from tests.support.oip_server import OipServer
from tests.support.raw_http import connect, exchange, read_to_end, status

LIMITS = Limits(
    max_body_bytes=1 << 22,
    max_json_bytes=20_000,
    max_json_depth=20,
    max_inflate_ratio=50,
    max_inputs=3,
    max_outputs=3,
    max_dims=4,
    max_dim=1000,
    max_id_chars=10,
    max_parameters=4,
    max_parameter_chars=20,
    max_chunks=50,
    max_header_bytes=4000,
    max_connections=20,
    header_timeout_s=0.3,
    body_timeout_s=0.3,
)
PATH = "/v2/models/identity_fp32/infer"


@pytest.fixture(scope="module")
def server() -> Iterator[OipServer]:
    with OipServer(limits=LIMITS).running() as running:
        yield running


@pytest.fixture(scope="module")
def http(server: OipServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{server.http_url}") as client:
        yield client


@pytest.fixture(autouse=True)
def still_alive(http: httpx.Client) -> Iterator[None]:
    yield
    assert http.get("/v2/health/live").status_code == 200


def body(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}
    return {"inputs": [{**tensor, **changes.pop("tensor", {})}], **changes}


@pytest.mark.parametrize(
    ("request_body", "code", "message"),
    [
        (body(id="x" * 11), 400, "at most 10 characters, got 11"),
        (body(tensor={"shape": [1] * 5}), 400, "at most 4 dimensions, got 5"),
        (body(tensor={"shape": [1, 1001]}), 400, "dimensions from 0 to 1000, got 1001"),
        (body(parameters={f"p{i}": 1 for i in range(5)}), 400, "at most 4 parameters, got 5"),
        (body(parameters={"p" * 21: 1}), 400, "name is longer than 20"),
        (body(parameters={"p": "v" * 21}), 400, "parameter 'p' is longer than 20"),
        (body(tensor={"parameters": {f"p{i}": 1 for i in range(5)}}), 400, "at most 4 parameters, got 5"),
        (body(outputs=[{"name": "y"}] * 4), 400, "'outputs': expected at most 3, got 4"),
        ({"inputs": body()["inputs"] * 4}, 400, "'inputs': expected at most 3, got 4"),
        (body(tensor={"data": [0.5] * 9000}), 413, "the JSON part has"),
    ],
)
def test_json_limits(http: httpx.Client, request_body: Any, code: int, message: str) -> None:
    answer = http.post(PATH, json=request_body)
    assert answer.status_code == code
    assert message in answer.json()["error"]


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize("depth", [21, 100, 1023, 5000])
@pytest.mark.parametrize("place", ["data", "extra", "parameters", "shape"])
def test_json_depth(http: httpx.Client, depth: int, place: str) -> None:
    text = orjson.dumps(
        body(tensor={"data": "HERE"} if place == "data" else {}, extra="HERE" if place == "extra" else 1)
    )
    if place in ("parameters", "shape"):
        text = orjson.dumps(
            body(**({"parameters": {"p": "HERE"}} if place == "parameters" else {"tensor": {"shape": "HERE"}}))
        )
    answer = http.post(PATH, content=text.replace(b'"HERE"', nested(depth)))
    assert answer.status_code == 400
    assert answer.json()["error"]


@pytest.mark.parametrize("depth", [100_000])
def test_json_too_deep_with_a_literal_that_orjson_refuses(server: OipServer, depth: int) -> None:
    with OipServer().running() as roomy, httpx.Client(base_url=f"http://{roomy.http_url}") as http:
        answer = http.post(PATH, content=b'{"inputs":NaN,"a":' + nested(depth) + b"}")
        assert answer.status_code == 400
        assert http.get("/v2/health/live").status_code == 200


@pytest.mark.parametrize("shape", [[10**9, 10**9], [2**31, 1], [2**63, 2**63], [1, 10**30]])
def test_shapes_that_overflow(http: httpx.Client, shape: list[int]) -> None:
    text = orjson.dumps(body(tensor={"shape": "HERE"})).replace(b'"HERE"', str(shape).encode())
    answer = http.post(PATH, content=text)
    assert answer.status_code == 400
    assert "expected" in answer.json()["error"]


def test_body_over_the_limit_is_refused_by_its_length(server: OipServer) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {LIMITS.max_body_bytes + 1}\r\n\r\n".encode()
    answer = exchange(server, [head])
    assert status(answer) == 413
    assert b"connection: close" in answer


def test_body_over_the_limit_is_refused_while_it_comes(server: OipServer) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    block = b"40000\r\n" + bytes(0x40000) + b"\r\n"
    answer = exchange(server, [head, *[block] * 64])
    assert status(answer) == 413
    assert b'{"error":"the body is larger than' in answer


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("size", [1 << 21, 1 << 30])
def test_decompression_bombs(http: httpx.Client, encoding: str, size: int) -> None:
    engine = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    block = bytes(1 << 20)
    bomb = b"".join(engine.compress(block) for _ in range(min(size >> 20, 64))) + engine.flush()
    answer = http.post(PATH, content=bomb, headers={"content-encoding": encoding})
    assert answer.status_code == 413
    assert "inflates" in answer.json()["error"] or "larger" in answer.json()["error"]


def test_modest_ratio_passes(http: httpx.Client) -> None:
    text = orjson.dumps(body()) + b" " * 15_000
    answer = http.post(PATH, content=gzip.compress(text), headers={"content-encoding": "gzip"})
    assert answer.status_code == 200


def test_slow_headers(server: OipServer) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nx-slow: ")
        answer = read_to_end(connection)
    assert status(answer) == 408
    assert b'{"error":' in answer


def test_silent_connection_is_closed(server: OipServer) -> None:
    with connect(server) as connection:
        assert status(read_to_end(connection)) == 408


def test_slow_body(server: OipServer) -> None:
    with connect(server) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{".encode())
        answer = read_to_end(connection)
    assert status(answer) == 408
    assert b'{"error":"no data for 0.3 s' in answer


def test_endless_headers(server: OipServer) -> None:
    head = b"GET /v2 HTTP/1.1\r\nhost: x\r\n"
    answer = exchange(server, [head, *[b"x-%d: %s\r\n" % (i, b"v" * 100) for i in range(100)]])
    assert status(answer) == 431
    assert b'{"error":' in answer


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /v2 HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\nzz\r\n",
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZZ\r\n",
    ],
)
def test_garbage_on_the_wire(server: OipServer, garbage: bytes) -> None:
    answer = exchange(server, [garbage])
    assert 400 <= status(answer) < 500
    assert b'{"error":' in answer


def test_too_many_connections(server: OipServer) -> None:
    opened = [connect(server) for _ in range(LIMITS.max_connections + 5)]
    try:
        assert status(read_to_end(opened[-1])) == 503
    finally:
        for connection in opened:
            connection.close()


def grpc_refusal(server: OipServer, message: Any) -> tuple[grpc.StatusCode, str]:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.grpc_url, options=options) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message)
        return caught.value.code(), str(caught.value.details())


def message(inputs: int = 1, shape: tuple[int, ...] = (1, 1)) -> Any:
    made = service_pb2.ModelInferRequest(model_name="identity_fp32")
    for index in range(inputs):
        made.inputs.add(name=f"x{index}", datatype="FP32", shape=shape)
        made.raw_input_contents.append(b"\0\0\0\0")
    return made


def test_grpc_limits(server: OipServer) -> None:
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    assert grpc_refusal(server, message(inputs=4)) == (invalid, "field 'inputs': expected at most 3, got 4")
    code, text = grpc_refusal(server, message(shape=(2**62, 2**62)))
    assert code is invalid and "dimensions from 0 to 1000" in text
    many = message()
    for _ in range(4):
        many.outputs.add(name="y")
    assert "at most 3, got 4" in grpc_refusal(server, many)[1]
    nameless = message()
    nameless.inputs[0].name = ""
    assert "expected 'name'" in grpc_refusal(server, nameless)[1]


def test_grpc_message_over_the_limit(server: OipServer) -> None:
    big = message()
    big.raw_input_contents[0] = bytes(LIMITS.max_body_bytes + 100)
    assert grpc_refusal(server, big)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    big.raw_input_contents[0] = bytes(2 * LIMITS.max_body_bytes)
    assert grpc_refusal(server, big)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_grpc_tensors_count_towards_the_memory_of_all_requests() -> None:
    with OipServer(limits=Limits(max_buffered_bytes=1 << 20)).running() as server:
        big = message()
        big.raw_input_contents[0] = bytes(1 << 21)
        code, text = grpc_refusal(server, big)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "fill the memory" in text
        big.raw_input_contents[0] = bytes(1 << 19)  # fits, and is given back after each
        assert [grpc_refusal(server, big)[0] for _ in range(3)] == [grpc.StatusCode.INVALID_ARGUMENT] * 3


def test_limits_are_checked_themselves() -> None:
    with pytest.raises(ValueError, match="max_body_bytes: expected a number above 0"):
        Limits(max_body_bytes=0)


def test_body_at_the_limit_passes(http: httpx.Client) -> None:
    array = np.zeros((8, 1000), np.float32)
    tensor = {"name": "x", "shape": [8, 1000], "datatype": "FP32", "parameters": {"binary_data_size": array.nbytes}}
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    answer = http.post(
        PATH, content=head + array.tobytes(), headers={"Inference-Header-Content-Length": str(len(head))}
    )
    assert answer.status_code == 200


def test_all_bodies_together_are_bounded() -> None:
    limits = Limits(max_buffered_bytes=1 << 20)
    half = b" " * (600 << 10)
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(half) + 10}\r\n\r\n".encode()
    with OipServer(limits=limits).running() as server, connect(server) as waiting:
        waiting.sendall(head + half)
        answer = b""
        while not answer:  # until the server has read the waiting half, the second body still fits and is malformed
            found = exchange(server, [head.replace(b"host: x", b"host: x\r\nconnection: close"), half + b" " * 10])
            answer = found if status(found) == 503 else b""
        assert b"retry-after" in answer
        assert b"fill the memory" in answer
        waiting.sendall(b" " * 10)
        assert b" 400 " in waiting.recv(100)
