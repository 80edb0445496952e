"""What gRPC carries beyond the client's methods: typed contents, streams, deadlines, cancelling, health, reflection."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from service.api import proto
from tests.support.oip_clients import int32
from tests.support.oip_server import OipServer


@pytest.fixture(scope="module")
def channel(server: OipServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc_url) as opened:
        yield opened


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def request(model: str, datatype: str, shape: list[int], **contents: Any) -> Any:
    message = service_pb2.ModelInferRequest(model_name=model, id="r1")
    tensor = message.inputs.add(name="x", datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(tensor.contents, field).extend(values)
    return message


def refusal(stub: Any, message: Any, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(message)
    assert caught.value.code() is code
    assert dict(caught.value.trailing_metadata())["x-request-id"]
    return str(caught.value.details())


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT16", "int_contents", [-32768, 32767]),
        ("INT32", "int_contents", [-(2**31), 5]),
        ("INT64", "int64_contents", [-(2**63), 5]),
        ("UINT8", "uint_contents", [0, 255]),
        ("UINT16", "uint_contents", [0, 65535]),
        ("UINT32", "uint_contents", [0, 2**32 - 1]),
        ("UINT64", "uint64_contents", [0, 2**64 - 1]),
        ("FP32", "fp32_contents", [1.5, -2.0]),
        ("FP64", "fp64_contents", [1e300, -2.0]),
    ],
)
def test_typed_contents(stub: Any, datatype: str, field: str, values: list[Any]) -> None:
    answer = stub.ModelInfer(request(f"identity_{datatype.lower()}", datatype, [1, 2], **{field: values}))
    assert answer.id == "r1"
    kind = {"FP32": "float32", "FP64": "float64"}.get(datatype, datatype.lower())
    assert np.frombuffer(answer.raw_output_contents[0], kind).tolist() == values


def test_typed_bytes(stub: Any) -> None:
    answer = stub.ModelInfer(request("identity_bytes", "BYTES", [1, 2], bytes_contents=[b"", b"ab"]))
    assert answer.raw_output_contents[0] == b"\0\0\0\0\2\0\0\0ab"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (request("identity_fp16", "FP16", [1, 1]), "FP16 has no typed contents"),
        (request("identity_int8", "INT8", [1, 1], int_contents=[300]), "does not fit into INT8"),
        (request("identity_int8", "INT8", [1, 1], int_contents=[1, 2]), "expected 1 elements"),
        (
            request("identity_int8", "INT8", [1, 1], fp32_contents=[1]),
            "expected INT8 in int_contents, got fp32_contents",
        ),
        (request("identity_int8", "INT8", [-1, 1], int_contents=[1]), "expected dimensions from 0"),
        (request("identity_int8", "INT8", [2**31 - 1] * 3, int_contents=[1]), "elements for shape"),
        (request("identity_int8", "INTEGER", [1, 1], int_contents=[1]), "expected a datatype of"),
        (request("identity_int8", "INT8", [1] * 17, int_contents=[1]), "at most 16 dimensions"),
        (service_pb2.ModelInferRequest(model_name="add_sub"), "at least one input"),
    ],
)
def test_contents_that_do_not_fit(stub: Any, message: Any, text: str) -> None:
    assert text in refusal(stub, message)


def test_raw_and_typed_together(stub: Any) -> None:
    message = request("identity_int8", "INT8", [1, 1], int_contents=[1])
    message.raw_input_contents.append(b"\1")
    assert "got both" in refusal(stub, message)
    message = request("identity_int8", "INT8", [1, 1])
    message.raw_input_contents.extend([b"\1", b"\2"])
    assert "expected 1 entries as inputs, got 2" in refusal(stub, message)


def test_parameters_without_a_value_or_reserved(stub: Any) -> None:
    message = request("identity_int8", "INT8", [1, 1], int_contents=[1])
    message.parameters["empty"].SetInParent()
    assert "parameter 'empty' has no value" in refusal(stub, message)
    message = request("identity_int8", "INT8", [1, 1], int_contents=[1])
    message.parameters["triton_x"].int64_param = 1
    assert "reserved" in refusal(stub, message)


def test_garbage_is_not_a_message(channel: grpc.Channel) -> None:
    call = channel.unary_unary(f"/{proto.SERVICE}/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "the message is not a valid ModelInferRequest"


def test_unknown_methods(channel: grpc.Channel) -> None:
    for method in (f"/{proto.SERVICE}/Nothing", "/other.Service/ModelInfer"):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(method)(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_named_repository_is_not_offered(stub: Any) -> None:
    for call, message in (
        (stub.RepositoryIndex, service_pb2.RepositoryIndexRequest(repository_name="r")),
        (stub.RepositoryModelLoad, service_pb2.RepositoryModelLoadRequest(repository_name="r", model_name="add_sub")),
        (stub.RepositoryModelUnload, service_pb2.RepositoryModelUnloadRequest(repository_name="r", model_name="m")),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(message)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_request_id_comes_back(stub: Any) -> None:
    _, call = stub.ServerMetadata.with_call(service_pb2.ServerMetadataRequest(), metadata=[("x-request-id", "me-1")])
    assert dict(call.trailing_metadata())["x-request-id"] == "me-1"


def test_deadline_of_the_transport(server: OipServer, stub: Any) -> None:
    """The server sees the client's deadline as the request's: it ends the work, whoever notices first."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request("slow", "INT32", [1, 1], int_contents=[1]), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    server.slow.release.release()


def stream_all(client: Any, *requests: dict[str, Any]) -> list[tuple[Any, Any]]:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for one in requests:
        client.async_stream_infer(**one)
    found = [answers.get(timeout=30) for _ in requests]
    client.stop_stream()
    return found


def tensor(*values: int) -> list[Any]:
    made = triton.InferInput("x", [1, len(values)], "INT32")
    made.set_data_from_numpy(int32(*values))
    return [made]


def test_stream_answers_in_order_with_errors_in_band(server: OipServer) -> None:
    with triton.InferenceServerClient(server.grpc_url) as client:
        one = {"model_name": "identity_int32"}
        found = stream_all(
            client,
            {**one, "inputs": tensor(1), "request_id": "a"},
            {"model_name": "nobody", "inputs": tensor(2), "request_id": "b"},
            {**one, "inputs": tensor(3), "request_id": "c"},
        )
    assert [result.get_response().id for result, error in found if error is None] == ["a", "c"]
    assert found[0][0].get_response().parameters["triton_final_response"].bool_param is True
    assert "Request for unknown model" in str(found[1][1])
    np.testing.assert_array_equal(found[2][0].as_numpy("y"), int32(3))


def test_stream_with_empty_final_answer(server: OipServer) -> None:
    message = request("identity_int8", "INT8", [1, 1], int_contents=[1])
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    with grpc.insecure_channel(server.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = list(stub.ModelStreamInfer(iter([message])))
    finals = [one.infer_response.parameters["triton_final_response"].bool_param for one in answers]
    assert finals == [False, True]
    assert len(answers[1].infer_response.raw_output_contents) == 0


def test_stream_with_status_errors_ends(server: OipServer) -> None:
    with grpc.insecure_channel(server.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        good = request("identity_int8", "INT8", [1, 1], int_contents=[1])
        bad = request("nobody", "INT8", [1, 1], int_contents=[1])
        call = stub.ModelStreamInfer(iter([good, bad, good]), metadata=[("triton_grpc_error", "true")])
        assert next(call).infer_response.id == "r1"
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_stream_of_garbage_ends_with_a_status(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream(f"/{proto.SERVICE}/ModelStreamInfer")(iter([b"\xff"])))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_stream_of_the_async_client(server: OipServer) -> None:
    from tritonclient.grpc import aio

    async def requests() -> Any:
        for value in range(100):
            yield {"model_name": "identity_int32", "inputs": tensor(value), "request_id": str(value)}

    async with aio.InferenceServerClient(server.grpc_url) as client:
        ids = [result.get_response().id async for result, error in client.stream_infer(requests()) if error is None]
    assert ids == [str(value) for value in range(100)]


def test_async_infer_and_cancel(server: OipServer) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(server.grpc_url) as client:
        context = client.async_infer("slow", tensor(1), lambda result, error: answers.put((result, error)))
        assert server.slow.entered.acquire(timeout=30)
        context.cancel()
        _, error = answers.get(timeout=30)
        server.slow.release.release()
        assert isinstance(error, InferenceServerException)
        assert "CANCELLED" in str(error.status())
        client.async_infer("identity_int32", tensor(5), lambda result, error: answers.put((result, error)))
        result, error = answers.get(timeout=30)
        assert error is None
        np.testing.assert_array_equal(result.as_numpy("y"), int32(5))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(server: OipServer, algorithm: str) -> None:
    with triton.InferenceServerClient(server.grpc_url) as client:
        result = client.infer("identity_int32", tensor(*range(1000)), compression_algorithm=algorithm)
        np.testing.assert_array_equal(result.as_numpy("y"), int32(*range(1000)))


def test_keep_alive_pings_are_tolerated(server: OipServer) -> None:
    options = triton.KeepAliveOptions(keepalive_time_ms=10_000, keepalive_permit_without_calls=True)
    with triton.InferenceServerClient(server.grpc_url, keepalive_options=options) as client:
        assert client.is_server_live()


def health(channel: grpc.Channel, service: str) -> int:
    call = channel.unary_unary(
        f"/{proto.HEALTH}/Check",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=proto.HealthCheckResponse.FromString,
    )
    return int(call(proto.HealthCheckRequest(service=service)).status)


def test_health_check(server: OipServer, channel: grpc.Channel) -> None:
    assert health(channel, "") == 1
    assert health(channel, proto.SERVICE) == 1
    server.call(lambda: server.readiness.set(False))
    try:
        assert health(channel, "") == 2
    finally:
        server.call(lambda: server.readiness.set(True))
    with pytest.raises(grpc.RpcError) as caught:
        health(channel, "nobody")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_watch_sees_every_change(server: OipServer, channel: grpc.Channel) -> None:
    watch = channel.unary_stream(f"/{proto.HEALTH}/Watch", response_deserializer=proto.HealthCheckResponse.FromString)
    call = watch(b"")
    assert next(call).status == 1
    server.call(lambda: server.readiness.set(False))
    assert next(call).status == 2
    server.call(lambda: server.readiness.set(True))
    assert next(call).status == 1
    call.cancel()


def test_reflection(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) >= {proto.SERVICE, proto.HEALTH}
    file = database.FindFileContainingSymbol(proto.SERVICE)
    service = next(one for one in file.service if one.name == "GRPCInferenceService")
    assert len(service.method) == 20
    assert database.FindFileByName(file.name).package == "inference"
    with pytest.raises(KeyError):
        database.FindFileContainingSymbol("no.such.Symbol")


def test_reflection_of_extensions_finds_nothing(channel: grpc.Channel) -> None:
    call = channel.stream_stream(
        f"/{proto.REFLECTION}/ServerReflectionInfo",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=proto.ServerReflectionResponse.FromString,
    )
    asked = proto.ServerReflectionRequest(host="h", all_extension_numbers_of_type="inference.ModelInferRequest")
    (answer,) = list(call(iter([asked])))
    assert answer.error_response.error_code == 5
    assert answer.valid_host == "h"
