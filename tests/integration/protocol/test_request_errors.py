"""Requests that do not fit: one cause, the same meaning over all clients, a message that says how to fix it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.support.oip_clients import OipClient, int32
from tests.support.oip_server import OipServer

STATUS = {
    400: "StatusCode.INVALID_ARGUMENT",
    404: "StatusCode.NOT_FOUND",
    500: "StatusCode.INTERNAL",
    501: "StatusCode.UNIMPLEMENTED",
    504: "StatusCode.DEADLINE_EXCEEDED",
}


def refused(client: OipClient, status: int, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(*args, **kwargs)
    assert caught.value.status() == (str(status) if client.over_http else STATUS[status])
    return str(caught.value.message())


def f32(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": f32(3)}, "expected shape [-1,3], got [3]; add a batch dimension: [1,3]"),
        ({"x": f32(1, 4)}, "expected shape [-1,3], got [1,4]"),
        ({"x": f32(1, 3, 1)}, "expected shape [-1,3], got [1,3,1]"),
        ({"x": np.ones((1, 3))}, "expected datatype FP32, got FP64"),
        ({"x": f32(9, 3)}, "expected a batch of 1 to 8 rows, got 9; split the request"),
        ({"x": f32(0, 3)}, "expected a batch of 1 to 8 rows, got 0; send at least one row"),
        ({"z": f32(1, 3)}, "unknown input 'z'; model 'classifier' takes 'x'"),
        ({"x": f32(1, 3), "y": f32(1, 3)}, "unknown input 'y'"),
    ],
)
def test_input_does_not_fit(client: OipClient, arrays: dict[str, Any], message: str) -> None:
    assert message in refused(client, 400, "classifier", arrays)


def test_inputs_of_different_batches(client: OipClient) -> None:
    arrays = {"a": np.ones((2, 4), np.int32), "b": np.ones((3, 4), np.int32)}
    assert "expected a batch of 2 rows as before, got 3" in refused(client, 400, "add_sub", arrays)


def test_missing_and_repeated_inputs(client: OipClient) -> None:
    assert "missing input 'b' (INT32 [-1,4])" in refused(client, 400, "add_sub", {"a": int32(1, 2, 3, 4)})
    twice = [client.input("x", f32(1, 3)), client.input("x", f32(1, 3))]
    with pytest.raises(InferenceServerException, match="input 'x' is given twice"):
        client.call("infer", "classifier", twice)


def test_outputs_that_do_not_exist(client: OipClient) -> None:
    outputs = [client.output("scores"), client.output("logits")]
    message = refused(client, 400, "classifier", {"x": f32(1, 3)}, outputs=outputs)
    assert "unknown output 'logits'; model 'classifier' has 'scores', 'text'" in message
    twice = [client.output("scores"), client.output("scores")]
    assert "requested twice" in refused(client, 400, "classifier", {"x": f32(1, 3)}, outputs=twice)


def test_classification_of_text(client: OipClient) -> None:
    outputs = [client.output("text", class_count=1)]
    assert "classification needs numbers" in refused(client, 400, "classifier", {"x": f32(1, 3)}, outputs=outputs)


def test_unknown_model_and_version(client: OipClient) -> None:
    assert "Request for unknown model: 'nobody'" in refused(client, 404, "nobody", {"x": f32(1, 3)})
    assert "version 2" in refused(client, 404, "add_sub", {"x": f32(1, 3)}, model_version="2")


@pytest.mark.parametrize("version", ["abc", "-1", "0", "1.0"])
def test_versions_that_cannot_be(client: OipClient, version: str) -> None:
    status = 404 if client.over_http else 400
    assert "positive integer" in refused(client, status, "add_sub", {"x": f32(1, 3)}, model_version=version)


def test_not_a_number_reaches_only_ungated_models(client: OipClient) -> None:
    bad = np.array([[1.0, np.nan, 0, 0, 0, 0, 0, 0]])
    assert "expected finite numbers, got NaN or infinity" in refused(client, 400, "gated", {"x": bad})
    echoed = client.infer("identity_fp64", {"x": bad}).as_numpy("y")
    np.testing.assert_array_equal(echoed, bad)


def test_model_refuses_a_value(client: OipClient) -> None:
    assert "x: expected anything but 7, got 7" in refused(client, 400, "raising", {"x": int32(7)})


def test_model_fails_without_telling_why(client: OipClient) -> None:
    message = refused(client, 500, "raising", {"x": int32(1)})
    assert "model 'raising' failed" in message
    assert not any(word in message for word in ("secret", "/", "Traceback", "RuntimeError"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"quality": "best"}, "expected auto, full or a budget in (0, 1], got 'best'"),
        ({"quality": "0"}, "a budget in (0, 1]"),
        ({"quality_floor": "1"}, "of this kind there are: quality, quality_min, quality_max"),
        ({"quality_min": 2}, "expected a number from 0 to 1, got 2"),
        ({"deadline_policy": "hope"}, "expected one of degrade, reject, best_effort, got 'hope'"),
    ],
)
def test_contract_that_cannot_be(client: OipClient, parameters: dict[str, Any], message: str) -> None:
    assert message in refused(client, 400, "gated", {"x": np.ones((1, 8))}, parameters=parameters)


def test_deadline_passes(client: OipClient, server: OipServer) -> None:
    try:
        message = refused(client, 504, "slow", {"x": int32(1)}, timeout=20_000)
        assert "no answer within the deadline of 0.02 s" in message
    finally:
        server.slow.release.release()
