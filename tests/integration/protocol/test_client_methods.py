"""Every method of tritonclient's checklist, over its four clients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from service.inference.datatypes import DATATYPES
from tests.support.oip_clients import OipClient, int32
from tests.support.oip_server import OipServer


def test_live_and_ready(client: OipClient) -> None:
    assert client.call("is_server_live") is True
    assert client.call("is_server_ready") is True
    assert client.call("is_model_ready", "add_sub") is True
    assert client.call("is_model_ready", "add_sub", "3") is True
    assert client.call("is_model_ready", "nobody") is False
    assert client.call("is_model_ready", "add_sub", "2") is False


def test_not_ready_while_draining(client: OipClient, server: OipServer) -> None:
    server.call(lambda: server.readiness.set(False))
    try:
        assert client.call("is_server_live") is True
        assert client.call("is_server_ready") is False
        assert client.call("is_model_ready", "add_sub") is False
    finally:
        server.call(lambda: server.readiness.set(True))


def test_server_metadata(client: OipClient) -> None:
    metadata = client.as_json("get_server_metadata")
    assert metadata["name"] == "swan-serve"
    assert metadata["version"]
    assert "binary_tensor_data" in metadata["extensions"]
    assert not any("shared_memory" in name or "sequence" in name for name in metadata["extensions"])


def test_model_metadata(client: OipClient) -> None:
    metadata = client.as_json("get_model_metadata", "add_sub")
    assert metadata["versions"] == ["1", "3"]
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["a", "b"]
    assert [int(size) for size in metadata["inputs"][0]["shape"]] == [-1, 4]
    assert metadata["outputs"][1]["datatype"] == "INT32"


def test_model_config(client: OipClient) -> None:
    config = client.as_json("get_model_config", "add_sub")
    config = config.get("config", config)
    assert config["name"] == "add_sub"
    assert config["max_batch_size"] == 8
    assert [int(size) for size in config["input"][0]["dims"]] == [4]
    assert config["output"][0]["data_type"] == "TYPE_INT32"


@pytest.mark.parametrize("method", ["get_model_metadata", "get_model_config", "get_inference_statistics"])
def test_unknown_model(client: OipClient, method: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.call(method, "nobody")
    assert caught.value.status() in ("404", "StatusCode.NOT_FOUND")
    assert "Request for unknown model: 'nobody'" in caught.value.message()


def test_infer_sums(client: OipClient) -> None:
    result = client.infer("add_sub", {"a": int32(1, 2, 3, 4), "b": int32(4, 3, 2, 1)}, request_id="abc")
    np.testing.assert_array_equal(result.as_numpy("sum"), int32(5, 5, 5, 5))
    np.testing.assert_array_equal(result.as_numpy("difference"), int32(-3, -1, 1, 3))
    assert client.response_id(result) == "abc"


def test_infer_only_what_is_asked_for(client: OipClient) -> None:
    arrays = {"a": int32(1, 2, 3, 4), "b": int32(0, 0, 0, 0)}
    result = client.infer("add_sub", arrays, [client.output("difference", binary_data=False)], model_version="3")
    np.testing.assert_array_equal(result.as_numpy("difference"), int32(1, 2, 3, 4))
    assert result.as_numpy("sum") is None


def sample(datatype: str) -> np.ndarray[Any, Any]:
    if datatype == "BYTES":
        return np.array([[b"", b"\x00\xff", "größe".encode()]], dtype=object)
    if datatype == "BF16":
        import ml_dtypes

        return np.array([[1.5, -2.0, 0.0]], dtype=ml_dtypes.bfloat16)
    if datatype == "BOOL":
        return np.array([[True, False, True]])
    kind = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}.get(datatype)
    if kind is not None:
        return np.array([[1.5, -2.25, np.finfo(kind).max]], dtype=kind)
    kind = np.dtype(datatype.lower())
    return np.array([[0, np.iinfo(kind).min, np.iinfo(kind).max]], dtype=kind)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_identity_of_every_datatype(client: OipClient, datatype: str) -> None:
    array = sample(datatype)
    result = client.call("infer", f"identity_{datatype.lower()}", [client.input("x", array, datatype)])
    np.testing.assert_array_equal(result.as_numpy("y"), array)


@pytest.mark.parametrize("datatype", [one for one in DATATYPES if one not in ("FP16", "BF16")])
def test_identity_as_json(server: OipServer, datatype: str) -> None:
    client = OipClient("http", server.http_url, server.grpc_url)
    array = np.array([["a", "größe"]], dtype=object) if datatype == "BYTES" else sample(datatype)
    tensor = client.input("x", array, datatype, binary_data=False)
    outputs = [client.output("y", binary_data=False)]
    result = client.call("infer", f"identity_{datatype.lower()}", [tensor], outputs=outputs)
    got = result.as_numpy("y")
    if datatype == "BYTES":
        got = np.array([[text.decode() if isinstance(text, bytes) else text for text in got[0]]], dtype=object)
    np.testing.assert_array_equal(got, array)
    client.close()


def test_zero_size(client: OipClient) -> None:
    array = np.zeros((2, 0), dtype=np.float32)
    assert client.infer("identity_fp32", {"x": array}).as_numpy("y").shape == (2, 0)


def test_response_parameters(client: OipClient) -> None:
    result = client.infer("gated", {"x": np.ones((2, 8))}, parameters={"quality": "0.5"})
    found = client.parameters(result)
    assert found["quality_budget"] == 0.5
    assert found["quality_activity"] == 0.5
    assert found["quality_expected"] == pytest.approx(0.85)
    assert found["quality_limited_by"] == "request"
    assert found["compute_macs"] == 2 * (8 * 12 + 5 + 3)
    assert found["compute_macs_dense"] == 2 * (16 * 12 + 3)
    assert found["batch_size"] == 2
    assert found["deadline_met"] is True
    assert found["queue_us"] >= 0
    assert found["compute_us"] >= 0


def test_contract_of_the_client_methods(client: OipClient) -> None:
    arrays = {"a": int32(1, 2, 3, 4), "b": int32(4, 3, 2, 1)}
    result = client.infer("add_sub", arrays, priority=1, timeout=60_000_000)
    assert client.parameters(result)["deadline_met"] is True


def test_sequences_are_not_offered(client: OipClient) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("identity_int32", {"x": int32(1)}, sequence_id=5, sequence_start=True)
    assert caught.value.status() in ("501", "StatusCode.UNIMPLEMENTED")


def test_classification(client: OipClient) -> None:
    arrays = {"x": np.array([[0.25, 3.5, -1.0], [9.0, 0.0, 1.0]], dtype=np.float32)}
    result = client.infer("classifier", arrays, [client.output("scores", class_count=2)])
    expected = [[b"3.500000:1:dog", b"0.250000:0:cat"], [b"9.000000:0:cat", b"1.000000:2:owl"]]
    np.testing.assert_array_equal(result.as_numpy("scores"), np.array(expected, dtype=object))


def test_statistics_grow_with_requests(client: OipClient) -> None:
    def counts() -> tuple[int, int, int]:
        one = client.as_json("get_inference_statistics", "identity_int64")["model_stats"][0]
        stats = one["inference_stats"]
        assert int(one["version"]) == 1
        assert {"cache_hit", "cache_miss"} <= set(stats)
        return (
            int(one.get("inference_count", 0)),
            int(one.get("execution_count", 0)),
            int(stats["queue"].get("count", 0)),
        )

    before = counts()
    client.infer("identity_int64", {"x": np.zeros((3, 2), dtype=np.int64)})
    assert counts() == (before[0] + 3, before[1] + 1, before[2] + 1)
    every = client.as_json("get_inference_statistics")["model_stats"]
    assert {one["name"] for one in every} >= {"add_sub", "gated", "identity_int64"}


def test_repository(client: OipClient) -> None:
    def states() -> dict[str, tuple[str, str]]:
        answer = client.as_json("get_model_repository_index")
        entries = answer if isinstance(answer, list) else answer["models"]
        return {f"{one['name']}/{one['version']}": (one["state"], one.get("reason", "")) for one in entries}

    assert states()["add_sub/3"] == ("READY", "")
    client.call("unload_model", "identity_uint8")
    assert client.call("is_model_ready", "identity_uint8") is False
    assert states()["identity_uint8/1"] == ("UNAVAILABLE", "unloaded")
    with pytest.raises(InferenceServerException, match="no available versions"):
        client.infer("identity_uint8", {"x": np.zeros((1, 1), dtype=np.uint8)})
    client.call("load_model", "identity_uint8")
    assert states()["identity_uint8/1"] == ("READY", "")
    client.infer("identity_uint8", {"x": np.zeros((1, 1), dtype=np.uint8)})


def test_load_refuses_strangers_and_overrides(client: OipClient) -> None:
    with pytest.raises(InferenceServerException, match="failed to load 'nobody'"):
        client.call("load_model", "nobody")
    with pytest.raises(InferenceServerException) as caught:
        client.call("load_model", "add_sub", config="{}", files={"file:1/weights": b"abc"})
    assert caught.value.status() in ("501", "StatusCode.UNIMPLEMENTED")
    with pytest.raises(InferenceServerException, match="no such model is loaded"):
        client.call("unload_model", "nobody")


def test_trace_settings_are_read_only(client: OipClient) -> None:
    settings = client.as_json("get_trace_settings")
    settings = settings.get("settings", settings)
    assert "trace_level" in settings
    client.call("update_trace_settings", settings={"trace_level": ["OFF"]})
    with pytest.raises(InferenceServerException, match="read-only"):
        client.call("update_trace_settings", settings={"trace_level": ["TIMESTAMPS"]})
    with pytest.raises(InferenceServerException, match="unknown trace setting"):
        client.call("update_trace_settings", settings={"other": "1"})


def test_log_settings_are_read_only(client: OipClient) -> None:
    settings = client.as_json("get_log_settings")
    assert "log_verbose_level" in settings.get("settings", settings)
    with pytest.raises(InferenceServerException, match="read-only"):
        client.call("update_log_settings", {"log_file": "/tmp/x"})


@pytest.mark.parametrize("region", ["system", "cuda"])
def test_shared_memory_is_not_offered(client: OipClient, region: str) -> None:
    status = client.call(f"get_{region}_shared_memory_status")
    assert len(status if isinstance(status, list) else status.regions) == 0
    extra = ("key", 64) if region == "system" else (b"aGFuZGxl", 0, 64)
    with pytest.raises(InferenceServerException) as caught:
        client.call(f"register_{region}_shared_memory", "mine", *extra)
    assert caught.value.status() in ("501", "StatusCode.UNIMPLEMENTED")
