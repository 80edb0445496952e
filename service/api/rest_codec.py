"""$inference_request and $inference_response: JSON with optional binary tensors behind it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from models.interface import ModelSpec
from service.api import codec, fields
from service.api.json_reader import check_depth, read_json_object
from service.api.json_tensors import from_json, to_json
from service.errors import InvalidRequest
from service.inference.datatypes import NUMPY_TYPES
from service.inference.limits import Limits
from service.types import InferResponse, OutputRequest, OutputTensor, ParameterValue

LENGTH_HEADER = "inference-header-content-length"

_DIGITS = re.compile(r"[0-9]{1,20}", re.ASCII)


class DecodedBody:
    """The parts of one request body."""

    __slots__ = ("binary_outputs", "datatypes", "id", "inputs", "outputs", "parameters")

    def __init__(self) -> None:
        self.id = ""
        self.parameters: dict[str, ParameterValue] = {}
        self.inputs: dict[str, NDArray[Any]] = {}
        self.datatypes: dict[str, str] = {}
        self.outputs: tuple[OutputRequest, ...] = ()
        self.binary_outputs = False


def header_length(text: str | None, body_length: int) -> int | None:
    """Bytes of the JSON part, None without the header. Raises InvalidRequest."""
    if text is None:
        return None
    if not _DIGITS.fullmatch(text) or int(text) > body_length:
        raise InvalidRequest(
            f"header 'Inference-Header-Content-Length': expected digits, 0 to {body_length}, got {text[:32]!r}"
        )
    return int(text)


def decode(body: bytes, json_length: int | None, limits: Limits) -> DecodedBody:
    """A JSON body, or JSON of `json_length` bytes followed by binary tensors. Raises InvalidRequest."""
    view = memoryview(body)
    raw = read_json_object(body if json_length is None else view[:json_length], limits)
    for key in raw.keys() - {"inputs"}:
        check_depth(raw[key], limits)
    decoded = DecodedBody()
    decoded.id = fields.check_id(raw.get("id", ""), limits)
    parameters = _object("request", raw.get("parameters"))
    decoded.binary_outputs = _flag("request", parameters, "binary_data_output")
    decoded.parameters = fields.check_request_parameters(parameters, limits)
    fields.refuse_sequences(decoded.parameters)
    tail = view[json_length:] if json_length is not None else view[:0]
    _read_inputs(raw.get("inputs"), tail, decoded, limits)
    decoded.outputs = _read_outputs(raw.get("outputs"), limits)
    return decoded


def decode_raw(body: bytes, spec: ModelSpec, limits: Limits) -> DecodedBody:
    """A raw binary request: the whole body is the data of the model's only input, one row. Raises InvalidRequest."""
    if len(spec.inputs) != 1:
        raise InvalidRequest(f"a raw binary request needs a model with one input, '{spec.name}' has {len(spec.inputs)}")
    tensor = spec.inputs[0]
    decoded = DecodedBody()
    decoded.binary_outputs = True
    if tensor.datatype == "BYTES":
        array: NDArray[Any] = np.empty(1, dtype=object)
        array[0] = body
        decoded.inputs[tensor.name] = array.reshape((1,) * (len(tensor.shape) + 1))
    else:
        size = NUMPY_TYPES[tensor.datatype].itemsize
        shape, elements = fields.check_shape(tensor.name, _fill_shape(tensor.shape, len(body) // size), limits)
        decoded.inputs[tensor.name] = codec.from_raw(tensor.name, tensor.datatype, shape, elements, body)
    decoded.datatypes[tensor.name] = tensor.datatype
    return decoded


def _fill_shape(declared: tuple[int, ...], elements: int) -> tuple[int, ...]:
    """One row of the declared shape, its single variable dimension computed from the number of elements."""
    if sum(size == -1 for size in declared) > 1:
        raise InvalidRequest("a raw binary request needs an input with at most one variable dimension")
    fixed = 1
    for size in declared:
        fixed *= size if size != -1 else 1
    return (1, *(elements // max(fixed, 1) if size == -1 else size for size in declared))


def _read_inputs(inputs: Any, tail: memoryview, decoded: DecodedBody, limits: Limits) -> None:
    if type(inputs) is not list or not inputs:
        raise InvalidRequest("field 'inputs': expected a list with at least one input")
    if len(inputs) > limits.max_inputs:
        raise InvalidRequest(f"field 'inputs': expected at most {limits.max_inputs}, got {len(inputs)}")
    position = 0
    for index, raw in enumerate(inputs):
        position = _read_input(index, raw, tail, position, decoded, limits)
    if position != len(tail):
        raise InvalidRequest(f"{len(tail) - position} bytes of binary data are left over after the last input")


def _read_input(index: int, raw: Any, tail: memoryview, position: int, decoded: DecodedBody, limits: Limits) -> int:
    """Decode one input; returns where the next one's binary data starts."""
    if type(raw) is not dict:
        raise InvalidRequest(f"inputs[{index}]: expected an object, got {type(raw).__name__}")
    name = _name("inputs", index, raw)
    if name in decoded.inputs:
        raise InvalidRequest(f"input '{name}' is given twice")
    for required in ("shape", "datatype"):
        if required not in raw:
            raise InvalidRequest(f"input '{name}': missing field '{required}'")
    datatype = fields.check_datatype(name, raw["datatype"])
    shape, elements = fields.check_shape(name, raw["shape"], limits)
    parameters = _object(f"input '{name}'", raw.get("parameters"))
    fields.check_parameters(f"input '{name}'", parameters, limits)
    fields.refuse_shared_memory(f"input '{name}'", parameters)
    size = parameters.get("binary_data_size")
    if (size is None) == ("data" not in raw):
        raise InvalidRequest(f"input '{name}': expected exactly one of 'data' and parameter 'binary_data_size'")
    decoded.datatypes[name] = datatype
    if size is None:
        decoded.inputs[name] = from_json(name, datatype, shape, elements, raw["data"])
        return position
    if type(size) is not int or not 0 <= size <= len(tail) - position:
        raise InvalidRequest(
            f"input '{name}': binary_data_size: expected 0 to the {len(tail) - position} bytes left, "
            f"got {repr(size)[:32]}"
        )
    decoded.inputs[name] = codec.from_raw(name, datatype, shape, elements, tail[position : position + size])
    return position + size


def _read_outputs(outputs: Any, limits: Limits) -> tuple[OutputRequest, ...]:
    if outputs is None:
        return ()
    if type(outputs) is not list:
        raise InvalidRequest(f"field 'outputs': expected a list, got {type(outputs).__name__}")
    if len(outputs) > limits.max_outputs:
        raise InvalidRequest(f"field 'outputs': expected at most {limits.max_outputs}, got {len(outputs)}")
    return tuple(_read_output(index, raw, limits) for index, raw in enumerate(outputs))


def _read_output(index: int, raw: Any, limits: Limits) -> OutputRequest:
    if type(raw) is not dict:
        raise InvalidRequest(f"outputs[{index}]: expected an object, got {type(raw).__name__}")
    name = _name("outputs", index, raw)
    parameters = _object(f"output '{name}'", raw.get("parameters"))
    binary = _flag(f"output '{name}'", parameters, "binary_data") if "binary_data" in parameters else None
    return fields.output_request(name, parameters, binary, limits)


def encode(response: InferResponse, wanted: DecodedBody, nan_as_null: bool = False) -> tuple[list[bytes], int | None]:
    """The body in pieces, and the length of its JSON part if binary tensors follow."""
    forms = {output.name: output.binary for output in wanted.outputs}
    texts: list[bytes] = []
    tails: list[Any] = []
    for output in response.outputs:
        binary = forms.get(output.name)
        if wanted.binary_outputs if binary is None else binary:
            raw = codec.to_raw(output.array, output.datatype)
            texts.append(_tensor(output, b'"parameters":{"binary_data_size":%d}' % len(raw)))
            tails.append(raw)
        else:
            texts.append(_tensor(output, b'"data":' + to_json(output.name, output.array, output.datatype, nan_as_null)))
    head: dict[str, Any] = {"id": response.id} if response.id else {}
    head |= {"model_name": response.model, "model_version": response.version, "parameters": response.parameters}
    text = orjson.dumps(head)[:-1] + b',"outputs":[' + b",".join(texts) + b"]}"
    return [text, *tails], len(text) if tails else None


def _tensor(output: OutputTensor, content: bytes) -> bytes:
    head = orjson.dumps({"name": output.name, "datatype": output.datatype, "shape": output.array.shape})
    return head[:-1] + b"," + content + b"}"


def _name(field: str, index: int, raw: dict[str, Any]) -> str:
    name = raw.get("name")
    if type(name) is not str or not 0 < len(name) <= 256:
        raise InvalidRequest(f"{field}[{index}]: expected 'name' as a string of 1 to 256 characters")
    return name


def _object(what: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if type(value) is not dict:
        raise InvalidRequest(f"{what}: expected 'parameters' as an object, got {type(value).__name__}")
    return value


def _flag(what: str, parameters: dict[str, Any], key: str) -> bool:
    value = parameters.get(key, False)
    if type(value) is not bool:
        raise InvalidRequest(f"{what}: {key}: expected true or false, got {repr(value)[:32]}")
    return value
