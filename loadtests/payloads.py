"""Real requests, encoded once: Fashion-MNIST test images with their labels, or package descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.types import ParameterValue


@dataclass(frozen=True, slots=True)
class Sample:
    """One input row and what a right answer is: a class index, or None where answers are compared with full quality."""

    array: NDArray[Any]
    label: int | None


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The one input of a model, as its metadata declares it."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def input_spec(metadata: Mapping[str, Any]) -> InputSpec:
    """Read the model's input from GET /v2/models/NAME; the first dimension is the batch."""
    declared = metadata["inputs"]
    if len(declared) != 1:
        raise ValueError(f"load tests speak to models with one input; {metadata['name']} has {len(declared)}")
    return InputSpec(declared[0]["name"], declared[0]["datatype"], tuple(declared[0]["shape"][1:]))


def raw_bytes(sample: Sample, spec: InputSpec) -> bytes:
    """One row as the protocol's raw tensor."""
    if spec.datatype == "BYTES":
        text = bytes(sample.array.item())
        return len(text).to_bytes(4, "little") + text
    return np.ascontiguousarray(sample.array, dtype=np.float32).tobytes()


def row_shape(sample: Sample, spec: InputSpec) -> list[int]:
    return [1, *(size if size > 0 else actual for size, actual in zip(spec.shape, sample.array.shape, strict=True))]


def http_binary(sample: Sample, spec: InputSpec, parameters: Mapping[str, ParameterValue]) -> tuple[bytes, int]:
    """(body, length of its JSON header) of one inference by the binary tensor extension."""
    raw = raw_bytes(sample, spec)
    header = orjson.dumps(
        {
            "parameters": {"binary_data_output": True, **parameters},
            "inputs": [
                {
                    "name": spec.name,
                    "shape": row_shape(sample, spec),
                    "datatype": spec.datatype,
                    "parameters": {"binary_data_size": len(raw)},
                }
            ],
        }
    )
    return header + raw, len(header)


def http_json(sample: Sample, spec: InputSpec, parameters: Mapping[str, ParameterValue]) -> bytes:
    """Body of one inference in plain JSON."""
    is_text = spec.datatype == "BYTES"
    data = [sample.array.item().decode()] if is_text else np.ravel(sample.array).astype(float).tolist()
    tensor = {"name": spec.name, "shape": row_shape(sample, spec), "datatype": spec.datatype, "data": data}
    return orjson.dumps({"parameters": dict(parameters), "inputs": [tensor]})


def grpc_request(model: str, sample: Sample, spec: InputSpec, parameters: Mapping[str, ParameterValue]) -> bytes:
    """A serialized ModelInferRequest."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name=spec.name, datatype=spec.datatype)
    tensor.shape.extend(row_shape(sample, spec))
    request.raw_input_contents.append(raw_bytes(sample, spec))
    for name, value in parameters.items():
        field = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], field, value)
    return bytes(request.SerializeToString())
