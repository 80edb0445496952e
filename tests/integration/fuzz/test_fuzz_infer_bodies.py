"""Bodies from grammar and mutation: each gets a 2xx or a typed refusal; the server lives and does not grow."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.inference.datatypes import DATATYPES
from tests.integration.fuzz.conftest import Target

QUICK = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
LONG = settings(QUICK, max_examples=3000)
MODELS = [f"identity_{datatype.lower()}" for datatype in DATATYPES] + ["add_sub", "classifier", "gated", "raising"]

scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(width=64) | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, -1, 2**31, 2**63]) | st.integers(-5, 10), max_size=5)
parameters = st.dictionaries(
    st.sampled_from(["binary_data_size", "classification", "binary_data", "quality", "timeout", "shared_memory_region"])
    | st.text(max_size=8),
    values,
    max_size=3,
)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "a", "b", "y"]) | values,
        "shape": shapes | values,
        "datatype": st.sampled_from(DATATYPES) | values,
        "data": st.lists(st.integers(-3, 3) | st.floats(), max_size=8) | values,
        "parameters": parameters | values,
    },
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=8) | values,
        "inputs": st.lists(tensors, max_size=3) | values,
        "outputs": st.lists(tensors, max_size=3) | values,
        "parameters": parameters | values,
        "other": values,
    },
)


def dump(body: Any) -> bytes:
    """JSON with NaN and huge integers, as clients may send it."""
    import json

    return json.dumps(body).encode("utf-8", "surrogatepass")


def judge(target: Target, model: str, body: bytes, headers: dict[str, str]) -> None:
    code, found, content = target.ask(f"/v2/models/{model}/infer", body, headers)
    if code == 200:
        assert found["content-type"] in ("application/json", "application/octet-stream")
    else:
        # `raising` fails on purpose; every other 500 would be ours
        assert code in (400, 408, 413, 415, 501, 503, 504) or (code == 500 and model == "raising"), (code, content)
        answer = orjson.loads(content)
        assert answer["error"] and answer["request_id"]
        assert "Traceback" not in answer["error"] and "/work" not in answer["error"]
    target.check()


def frame(kind: int, extra: bytes) -> tuple[bytes, int]:
    """A valid binary request and the length of its JSON part."""
    datatype = DATATYPES[kind % len(DATATYPES)]
    raw = extra if datatype != "BYTES" else len(extra).to_bytes(4, "little") + extra
    tensor = {"name": "x", "shape": [1, len(extra)], "datatype": datatype, "parameters": {"binary_data_size": len(raw)}}
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return head + raw, len(head)


@st.composite
def mutated_frames(draw: st.DrawFn) -> tuple[str, bytes, dict[str, str]]:
    kind = draw(st.integers(0, len(DATATYPES) - 1))
    body, length = frame(kind, draw(st.binary(max_size=64)))
    changed = bytearray(body)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        match draw(st.sampled_from(["flip", "cut", "insert", "repeat"])):
            case "flip":
                changed[at] = draw(st.integers(0, 255))
            case "cut":
                del changed[at : at + draw(st.integers(1, 9))]
            case "insert":
                changed[at:at] = draw(st.binary(max_size=9))
            case _:
                changed[at:at] = changed[at : at + 9]
        if not changed:
            break
    header = draw(st.sampled_from([str(length), str(len(changed)), "0", "1", "-1", "99999", "x", str(length + 1)]))
    return MODELS[kind], bytes(changed), {"Inference-Header-Content-Length": header}


@st.composite
def compressed(draw: st.DrawFn) -> tuple[str, bytes, dict[str, str]]:
    encoding = draw(st.sampled_from(["gzip", "deflate", "identity", "br", "GZIP", ""]))
    plain = dump(draw(bodies)) + b" " * draw(st.sampled_from([0, 0, 0, 1 << 16, 9 << 20]))
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}.get(draw(st.sampled_from(["gzip", "deflate", "none"])))
    packed = bytearray(pack(plain) if pack else plain[: 1 << 20])
    if draw(st.booleans()) and packed:
        packed[draw(st.integers(0, len(packed) - 1))] ^= draw(st.integers(1, 255))
    return "identity_fp32", bytes(packed), {"Content-Encoding": encoding, "Accept-Encoding": "gzip"}


def check_json(target: Target, model: str, body: Any) -> None:
    judge(target, model, dump(body), {})


def check_bytes(target: Target, model: str, data: bytes) -> None:
    judge(target, model, data, {})


@QUICK
@given(model=st.sampled_from(MODELS), body=bodies)
def test_json_quick(target: Target, model: str, body: Any) -> None:
    check_json(target, model, body)


@QUICK
@given(model=st.sampled_from(MODELS), data=st.binary(max_size=300))
def test_bytes_quick(target: Target, model: str, data: bytes) -> None:
    check_bytes(target, model, data)


@QUICK
@given(case=mutated_frames())
def test_frames_quick(target: Target, case: tuple[str, bytes, dict[str, str]]) -> None:
    judge(target, *case)


@settings(QUICK, max_examples=40)
@given(case=compressed())
def test_compressed_quick(target: Target, case: tuple[str, bytes, dict[str, str]]) -> None:
    judge(target, *case)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@LONG
@given(model=st.sampled_from(MODELS), body=bodies)
def test_json_long(target: Target, model: str, body: Any) -> None:
    check_json(target, model, body)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@LONG
@given(model=st.sampled_from(MODELS), data=st.binary(max_size=2000))
def test_bytes_long(target: Target, model: str, data: bytes) -> None:
    check_bytes(target, model, data)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@LONG
@given(case=mutated_frames())
def test_frames_long(target: Target, case: tuple[str, bytes, dict[str, str]]) -> None:
    judge(target, *case)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@settings(QUICK, max_examples=500)
@given(case=compressed())
def test_compressed_long(target: Target, case: tuple[str, bytes, dict[str, str]]) -> None:
    judge(target, *case)
