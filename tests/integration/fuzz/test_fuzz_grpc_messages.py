"""Random and mutated messages to every RPC: never INTERNAL or UNKNOWN, and the server lives."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.api import proto
from service.inference.datatypes import DATATYPES
from tests.integration.fuzz.conftest import Target
from tests.support.oip_server import OipServer

QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
LONG = settings(QUICK, max_examples=3000)
ALLOWED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
}
# load and unload would change what other cases ask; their bodies are fuzzed through HTTP with names that do not exist
METHODS = sorted(
    name
    for name in proto.POOL.FindServiceByName(proto.SERVICE).methods_by_name
    if name not in ("RepositoryModelLoad", "RepositoryModelUnload")
)


@pytest.fixture(scope="module")
def channel(server: OipServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc_url) as opened:
        yield opened


@st.composite
def infer_messages(draw: st.DrawFn) -> bytes:
    datatype = draw(st.sampled_from(DATATYPES))
    message = proto.ModelInferRequest(model_name=f"identity_{datatype.lower()}", id=draw(st.text(max_size=4)))
    for _ in range(draw(st.integers(0, 2))):
        tensor = message.inputs.add(
            name=draw(st.sampled_from(["x", "", "y"])),
            datatype=draw(st.sampled_from([datatype, "", "FP33"])),
            shape=draw(st.lists(st.integers(-2, 4) | st.sampled_from([2**31, 2**62]), max_size=4)),
        )
        if draw(st.booleans()):
            tensor.contents.int_contents.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)))
        if draw(st.booleans()):
            tensor.contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=4)))
    message.raw_input_contents.extend(draw(st.lists(st.binary(max_size=40), max_size=2)))
    for key in draw(
        st.lists(st.sampled_from(["quality", "timeout", "priority", "sequence_id", "triton_x"]), max_size=2)
    ):
        match draw(st.integers(0, 4)):
            case 0:
                message.parameters[key].int64_param = draw(st.integers(-(2**63), 2**63 - 1))
            case 1:
                message.parameters[key].string_param = draw(st.text(max_size=5))
            case 2:
                message.parameters[key].double_param = draw(st.floats())
            case 3:
                message.parameters[key].bool_param = draw(st.booleans())
            case _:
                message.parameters[key].SetInParent()
    data = bytearray(message.SerializeToString())
    if data and draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def send(channel: grpc.Channel, target: Target, method: str, data: bytes) -> None:
    target.cases += 1
    path = f"/{proto.SERVICE}/{method}"
    try:
        if method == "ModelStreamInfer":
            list(channel.stream_stream(path)(iter([data, data])))
        else:
            channel.unary_unary(path)(data)
    except grpc.RpcError as error:
        # a timeout parameter of a few microseconds may really pass
        assert error.code() in ALLOWED | {grpc.StatusCode.DEADLINE_EXCEEDED}, (method, error.code(), error.details())
    target.check()


@QUICK
@given(method=st.sampled_from(METHODS), data=st.binary(max_size=100))
def test_any_rpc_quick(channel: grpc.Channel, target: Target, method: str, data: bytes) -> None:
    send(channel, target, method, data)


@QUICK
@given(method=st.sampled_from(["ModelInfer", "ModelStreamInfer"]), data=infer_messages())
def test_infer_quick(channel: grpc.Channel, target: Target, method: str, data: bytes) -> None:
    send(channel, target, method, data)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@settings(QUICK, max_examples=1500)
@given(method=st.sampled_from(METHODS), data=st.binary(max_size=500))
def test_any_rpc_long(channel: grpc.Channel, target: Target, method: str, data: bytes) -> None:
    send(channel, target, method, data)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@LONG
@given(method=st.sampled_from(["ModelInfer", "ModelStreamInfer"]), data=infer_messages())
def test_infer_long(channel: grpc.Channel, target: Target, method: str, data: bytes) -> None:
    send(channel, target, method, data)
