"""ModelConfig as perf_analyzer reads it, with the quality and compute curve of a gated model."""

from __future__ import annotations

from google.protobuf import json_format

from service.api import proto
from service.inference.model_config import model_config
from tests.support.gated_numpy import BUDGETS, GatedNumpy
from tests.support.tiny_models import add_sub


def test_fields_that_perf_analyzer_reads() -> None:
    config = model_config(add_sub())
    assert config["max_batch_size"] == 8
    assert config["model_transaction_policy"] == {"decoupled": False}
    assert config["response_cache"] == {"enable": False}
    assert config["input"][0] == {
        "name": "a",
        "data_type": "TYPE_INT32",
        "dims": [4],
        "is_shape_tensor": False,
        "optional": False,
    }
    assert not {"sequence_batching", "ensemble_scheduling"} & set(config)


def test_curve_of_a_gated_model() -> None:
    parameters = {key: value["string_value"] for key, value in model_config(GatedNumpy())["parameters"].items()}
    assert parameters["quality_metric"] == "accuracy"
    assert [float(budget) for budget in parameters["quality_budgets"].split(",")] == list(BUDGETS)
    assert len(parameters["quality_expected"].split(",")) == len(parameters["compute_macs"].split(",")) == len(BUDGETS)


def test_both_forms_are_one() -> None:
    config = model_config(GatedNumpy())
    message = json_format.ParseDict(config, proto.ModelConfig(), descriptor_pool=proto.POOL)
    back = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, descriptor_pool=proto.POOL
    )
    assert back["input"][0]["dims"] == ["-1"]
    assert back["parameters"] == config["parameters"]
    assert back["input"][0]["data_type"] == "TYPE_FP64"
