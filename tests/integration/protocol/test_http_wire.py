"""What HTTP carries beyond the client's methods: framing, compression, headers, methods, strange bodies."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from service.api.application import ApiOptions
from tests.support.oip_server import OipServer

ADD_SUB = "/v2/models/add_sub/infer"
FP32 = "/v2/models/identity_fp32/infer"


@pytest.fixture(scope="module")
def http(server: OipServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{server.http_url}") as client:
        yield client


def fp32(data: Any, shape: list[int] | None = None, **more: Any) -> dict[str, Any]:
    shape = shape or [1, len(data)]
    return {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": data}], **more}


def binary(array: np.ndarray[Any, Any], **more: Any) -> tuple[bytes, dict[str, str]]:
    raw = array.tobytes()
    tensor = {"name": "x", "shape": list(array.shape), "datatype": "FP32", "parameters": {"binary_data_size": len(raw)}}
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}, **more})
    return head + raw, {"Inference-Header-Content-Length": str(len(head))}


def error(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error", "request_id"}
    assert body["request_id"] == response.headers["x-request-id"]
    return str(body["error"])


def test_plain_curl_request(http: httpx.Client) -> None:
    answer = http.post(FP32, json=fp32([1, 2.5], id="7"))
    body = answer.json()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in answer.headers
    assert body["id"] == "7"
    assert body["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.5]}]
    assert answer.headers["server-timing"].startswith("queue;dur=")
    assert len(answer.headers["x-request-id"]) == 16


def test_content_type_is_never_looked_at(http: httpx.Client) -> None:
    body = orjson.dumps(fp32([1.0]))
    for kind in ("application/octet-stream", "text/plain", "application/x-www-form-urlencoded"):
        assert http.post(FP32, content=body, headers={"content-type": kind}).status_code == 200
    assert http.post(FP32 + "?tracing=1", content=body).status_code == 200


def test_request_id_is_echoed_if_harmless(http: httpx.Client) -> None:
    assert http.get("/v2", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert http.get("/v2", headers={"x-request-id": "a b<c>"}).headers["x-request-id"] != "a b<c>"


def test_binary_frame(http: httpx.Client) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    body, headers = binary(array)
    answer = http.post(FP32, content=body, headers=headers)
    length = int(answer.headers["inference-header-content-length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    head = orjson.loads(answer.content[:length])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 24}
    assert answer.content[length:] == array.tobytes()


def test_raw_binary_request(http: httpx.Client) -> None:
    array = np.arange(5, dtype=np.float32)
    zero = {"Inference-Header-Content-Length": "0"}
    answer = http.post(FP32, content=array.tobytes(), headers=zero)
    length = int(answer.headers["inference-header-content-length"])
    assert orjson.loads(answer.content[:length])["outputs"][0]["shape"] == [1, 5]
    assert answer.content[length:] == array.tobytes()
    answer = http.post("/v2/models/identity_bytes/infer", content=b"\x00any", headers=zero)
    assert answer.content.endswith(b"\x04\x00\x00\x00\x00any")
    assert "expected 4 bytes" in error(http.post(FP32, content=b"12345", headers=zero), 400)
    assert "needs a model with one input" in error(http.post(ADD_SUB, content=b"1234", headers=zero), 400)


@pytest.mark.parametrize("text", ["113x", "12 34", "+5", "-1", "1e2", "", "999999", "٣"])
def test_header_length_is_strict(http: httpx.Client, text: str) -> None:
    body, _ = binary(np.ones((1, 2), np.float32))
    answer = http.post(FP32, content=body, headers=[(b"inference-header-content-length", text.encode())])
    assert "expected digits" in error(answer, 400)


@pytest.mark.parametrize(
    ("size", "tail", "message"),
    [
        (8, b"", "expected 0 to the 0 bytes left, got 8"),
        (8, b"12345678rest", "4 bytes of binary data are left over"),
        (4, b"1234", "expected 8 bytes for FP32 of shape [1, 2], got 4"),
        (-1, b"", "got -1"),
        (True, b"", "got True"),
        ("8", b"12345678", "got '8'"),
        (2**70, b"12345678", "left, got"),
    ],
)
def test_binary_sizes_are_strict(http: httpx.Client, size: Any, tail: bytes, message: str) -> None:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    if size == 2**70:
        head = orjson.dumps({"inputs": [{**tensor, "parameters": {}}]}).replace(
            b'"parameters":{}', b'"parameters":{"binary_data_size":%d}' % size
        )
    else:
        head = orjson.dumps({"inputs": [tensor]})
    answer = http.post(FP32, content=head + tail, headers={"Inference-Header-Content-Length": str(len(head))})
    assert message in error(answer, 400)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "empty body"),
        (b"{", "malformed JSON"),
        (b"[]", "expected a JSON object, got list"),
        (b"null", "expected a JSON object, got null"),
        (b"{}", "field 'inputs'"),
        (b'{"inputs":[]}', "at least one input"),
        (b'{"inputs":[1]}', "inputs[0]: expected an object"),
        (b'{"inputs":[{}]}', "expected 'name'"),
        (b'{"inputs":[{"name":"x","datatype":"FP32","data":[1]}]}', "missing field 'shape'"),
        (b'{"inputs":[{"name":"x","shape":[1,1],"data":[1]}]}', "missing field 'datatype'"),
        (b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP33","data":[1]}]}', "expected a datatype of BOOL"),
        (b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32"}]}', "exactly one of 'data'"),
        (b'{"inputs":[{"name":"x","shape":"1","datatype":"FP32","data":[1]}]}', "'shape' as a list"),
        (b'{"inputs":[{"name":"x","shape":[1.0],"datatype":"FP32","data":[1]}]}', "got 1.0"),
        (b'{"inputs":[{"name":"x","shape":[-1,1],"datatype":"FP32","data":[1]}]}', "got -1"),
        (b'{"inputs":[{"name":"x","shape":[1000000000,1000000000],"datatype":"FP32","data":[1]}]}', "got 1"),
        (b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1,2]}]}', "expected 1 elements"),
        (b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":["a"]}]}', "expected integer or number"),
        (b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[true]}]}', "got boolean"),
        (b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1e300]}]}', "too large for FP32"),
        (b'{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1,2],[3]]}]}', "nested data must have"),
        (b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":5}]}', "'data' as a list, got int"),
        (b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP16","data":[5]}]}', "FP16 cannot be JSON"),
        (b'{"id":5,"inputs":[]}', "field 'id': expected a string"),
        (b'{"parameters":[],"inputs":[]}', "'parameters' as an object"),
        (b'{"parameters":{"a":{}},"inputs":[]}', "parameter 'a': expected a string, number or boolean, got dict"),
        (b'{"parameters":{"a":null},"inputs":[]}', "got NoneType"),
        (b'{"parameters":{"triton_x":1},"inputs":[]}', "reserved"),
        (b'{"parameters":{"binary_data_output":1},"inputs":[]}', "expected true or false"),
        (
            b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}],"outputs":{}}',
            "'outputs': expected a list",
        ),
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}],"outputs":[0]}', "outputs[0]"),
    ],
)
def test_malformed_requests(http: httpx.Client, body: bytes, message: str) -> None:
    assert message in error(http.post(FP32, content=body), 400)


@pytest.mark.parametrize(
    ("value", "datatype"), [("300", "INT8"), ("-1", "UINT64"), ("1.5", "INT32"), ("18446744073709551616", "UINT64")]
)
def test_integers_never_wrap(http: httpx.Client, value: str, datatype: str) -> None:
    body = f'{{"inputs":[{{"name":"x","shape":[1,1],"datatype":"{datatype}","data":[{value}]}}]}}'
    assert "expected" in error(http.post(f"/v2/models/identity_{datatype.lower()}/infer", content=body), 400)


def test_nan_literals_both_ways(http: httpx.Client) -> None:
    body = b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[NaN, Infinity, -Infinity]}]}'
    assert b'"data":[NaN,Infinity,-Infinity]' in http.post(FP32, content=body).content


def test_outputs_that_cannot_be_json(http: httpx.Client) -> None:
    scores = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
    answer = http.post("/v2/models/classifier/infer", json=scores)
    assert "output 'text': its bytes are not UTF-8" in error(answer, 400)
    raw = np.ones(2, np.float16).tobytes()
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP16", "parameters": {"binary_data_size": 4}}
    head = orjson.dumps({"inputs": [tensor]})
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = http.post("/v2/models/identity_fp16/infer", content=head + raw, headers=headers)
    assert "FP16 cannot be JSON" in error(answer, 400)


def test_shared_memory_parameters(http: httpx.Client) -> None:
    region = {"shared_memory_region": "r", "shared_memory_byte_size": 4}
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "parameters": region}
    assert "shared memory is not offered" in error(http.post(FP32, json={"inputs": [tensor]}), 501)
    body = fp32([1.0], outputs=[{"name": "y", "parameters": region}])
    assert "shared memory is not offered" in error(http.post(FP32, json=body), 501)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_both_ways(http: httpx.Client, encoding: str, pack: Any) -> None:
    body, headers = binary(np.zeros((1, 4096), np.float32))
    headers |= {"content-encoding": encoding, "accept-encoding": encoding}
    answer = http.post(FP32, content=pack(body), headers=headers)
    assert answer.headers["content-encoding"] == encoding
    assert int(answer.headers["content-length"]) < 4096
    assert answer.content.endswith(bytes(4 * 4096))
    assert len(answer.content) == int(answer.headers["inference-header-content-length"]) + 4 * 4096


@pytest.mark.parametrize("accept", [None, "br, zstd", "gzip;q=0, deflate;q=0", "identity, gzip;q=0.5", "gzip;q=x"])
def test_no_unwanted_compression(http: httpx.Client, accept: str | None) -> None:
    body, headers = binary(np.zeros((1, 4096), np.float32))
    headers["accept-encoding"] = accept or ""
    assert "content-encoding" not in http.post(FP32, content=body, headers=headers).headers


def test_only_infer_answers_are_compressed(http: httpx.Client) -> None:
    headers = {"accept-encoding": "gzip, deflate, br"}
    for path in ("/v2", "/v2/models/add_sub", "/openapi.json", "/v2/models/nobody"):
        assert "content-encoding" not in http.get(path, headers=headers).headers
    assert "content-encoding" not in http.post(FP32, json=fp32([1.0]), headers=headers).headers


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", b"abc", 415),
        ("gzip", b"not gzip", 400),
        ("gzip", gzip.compress(b"{}")[:-4], 400),
        ("gzip", gzip.compress(b"{}") + b"more", 400),
        ("deflate", b"", 400),
        ("gzip, gzip", b"", 415),
    ],
)
def test_broken_compression(http: httpx.Client, encoding: str, body: bytes, status: int) -> None:
    error(http.post(FP32, content=body, headers={"content-encoding": encoding}), status)


def test_chunked_body(http: httpx.Client) -> None:
    body = orjson.dumps(fp32([1.0, 2.0]))
    pieces = (body[i : i + 7] for i in range(0, len(body), 7))
    assert http.post(FP32, content=pieces).json()["outputs"][0]["data"] == [1.0, 2.0]


@pytest.mark.parametrize(
    "path", ["/", "/v3", "/v2/models", "/v2/models/a/b/c", "/v2/health", "/v2/models/add_sub/other"]
)
def test_unknown_paths(http: httpx.Client, path: str) -> None:
    assert "no such route" in error(http.get(path), 404)


def test_wrong_methods(http: httpx.Client) -> None:
    answer = http.get(ADD_SUB)
    assert "this route takes POST" in error(answer, 405)
    assert answer.headers["allow"] == "POST"
    answer = http.delete("/v2/logging")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
    error(answer, 405)


def test_head_and_trailing_slash(http: httpx.Client) -> None:
    assert http.head("/v2/health/live").status_code == 200
    assert http.get("/v2/").json() == http.get("/v2").json()


def test_not_ready_says_when_to_come_back(http: httpx.Client, server: OipServer) -> None:
    server.call(lambda: server.readiness.set(False))
    try:
        for path in ("/v2/health/ready", "/v2/models/add_sub/ready"):
            answer = http.get(path)
            assert "starting or draining" in error(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1
    finally:
        server.call(lambda: server.readiness.set(True))


@pytest.mark.parametrize("name", ["..%2f..%2fetc", "%2e%2e", "a%00b", "a%20b", "x" * 300, "%ff", "%e2%82%ac"])
def test_names_that_no_model_has(http: httpx.Client, name: str) -> None:
    assert http.get(f"/v2/models/{name}").status_code == 404
    assert http.post(f"/v2/repository/models/{name}/load").status_code == 404


def test_repository_bodies(http: httpx.Client) -> None:
    assert http.post("/v2/repository/index", json={"ready": True}).json()[0]["state"] == "READY"
    error(http.post("/v2/repository/index", json={"ready": "yes"}), 400)
    error(http.post("/v2/repository/index", content=b"nonsense"), 400)
    error(http.post("/v2/repository/other/index"), 501)
    error(http.post("/v2/repository/models/add_sub/unload", json={"parameters": 5}), 400)
    error(http.post("/v2/trace/setting", json={"trace_level": [5]}), 400)
    assert http.post("/v2/logging", json={"log_file": None}).status_code == 200


def test_base_path_prefix() -> None:
    with (
        OipServer(options=ApiOptions(base_path="/base", nan_as_null=True)).running() as server,
        httpx.Client(base_url=f"http://{server.http_url}") as http,
    ):
        assert http.get("/base/v2/health/live").status_code == 200
        error(http.get("/v2/health/live"), 404)
        error(http.post("/base/v2"), 405)
        body = b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[NaN]}]}'
        assert http.post("/base" + FP32, content=body).json()["outputs"][0]["data"] == [None]
