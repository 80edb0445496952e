"""ModelInferRequest and ModelInferResponse to and from the service's own values. Answers always carry raw contents."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.api import codec, fields, proto
from service.errors import InvalidRequest
from service.inference.contract import parse_contract
from service.inference.datatypes import NUMPY_TYPES
from service.inference.limits import Limits
from service.types import InferRequest, InferResponse, OutputRequest, ParameterValue

_EMPTY_FINAL = "triton_enable_empty_final_response"
# typed contents by datatype; FP16 and BF16 have none
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_NARROWER_THAN_THEIR_FIELD = frozenset({"INT8", "INT16", "UINT8", "UINT16"})


class CallFacts:
    """What an infer request inherits from its call. headers: lower-case metadata; deadline_s: relative, or None."""

    __slots__ = ("arrival_s", "deadline_s", "headers", "request_id", "tenant")

    def __init__(
        self, headers: dict[str, str], request_id: str, arrival_s: float, deadline_s: float | None, tenant: str = ""
    ) -> None:
        self.headers = headers
        self.request_id = request_id
        self.arrival_s = arrival_s
        self.deadline_s = deadline_s
        self.tenant = tenant


def decode(message: Any, facts: CallFacts, limits: Limits) -> InferRequest:
    """Raises InvalidRequest or NotOffered."""
    parameters = read_parameters(message.parameters)
    parameters.pop(_EMPTY_FINAL, None)
    parameters = fields.check_request_parameters(parameters, limits)
    fields.refuse_sequences(parameters)
    inputs, datatypes = _read_inputs(message, limits)
    if len(message.outputs) > limits.max_outputs:
        raise InvalidRequest(f"field 'outputs': expected at most {limits.max_outputs}, got {len(message.outputs)}")
    return InferRequest(
        model=message.model_name,
        version=message.model_version,
        id=fields.check_id(message.id, limits),
        inputs=inputs,
        datatypes=datatypes,
        outputs=tuple(_read_output(output, limits) for output in message.outputs),
        parameters=parameters,
        contract=parse_contract(parameters, facts.headers, facts.deadline_s, facts.tenant),
        arrival_s=facts.arrival_s,
        request_id=facts.request_id,
    )


def read_parameters(parameters: Any) -> dict[str, ParameterValue]:
    """A map of InferParameter as plain values; an empty one is refused."""
    values: dict[str, ParameterValue] = {}
    for key, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidRequest(f"parameter '{key[:64]}' has no value")
        values[key] = getattr(parameter, choice)
    return values


def wants_empty_final(message: Any) -> bool:
    return bool(message.parameters[_EMPTY_FINAL].bool_param) if _EMPTY_FINAL in message.parameters else False


def _read_inputs(message: Any, limits: Limits) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    tensors, raws = message.inputs, message.raw_input_contents
    if not tensors:
        raise InvalidRequest("field 'inputs': expected at least one input")
    if len(tensors) > limits.max_inputs:
        raise InvalidRequest(f"field 'inputs': expected at most {limits.max_inputs}, got {len(tensors)}")
    if raws and len(raws) != len(tensors):
        raise InvalidRequest(f"field 'raw_input_contents': expected {len(tensors)} entries as inputs, got {len(raws)}")
    inputs: dict[str, NDArray[Any]] = {}
    datatypes: dict[str, str] = {}
    for index, tensor in enumerate(tensors):
        name = tensor.name
        if not 0 < len(name) <= 256:
            raise InvalidRequest(f"inputs[{index}]: expected 'name' as a string of 1 to 256 characters")
        if name in inputs:
            raise InvalidRequest(f"input '{name}' is given twice")
        inputs[name] = _read_input(tensor, raws[index] if raws else None, limits)
        datatypes[name] = tensor.datatype
    return inputs, datatypes


def _read_input(tensor: Any, raw: bytes | None, limits: Limits) -> NDArray[Any]:
    name = tensor.name
    datatype = fields.check_datatype(name, tensor.datatype)
    shape, elements = fields.check_shape(name, list(tensor.shape), limits)
    if tensor.parameters:
        parameters = read_parameters(tensor.parameters)
        fields.check_parameters(f"input '{name}'", parameters, limits)
        fields.refuse_shared_memory(f"input '{name}'", parameters)
    if raw is None:
        return _from_contents(name, datatype, shape, elements, tensor.contents)
    if tensor.HasField("contents"):
        raise InvalidRequest(f"input '{name}': expected raw_input_contents or contents, got both")
    return codec.from_raw(name, datatype, shape, elements, raw)


def _from_contents(name: str, datatype: str, shape: tuple[int, ...], elements: int, contents: Any) -> NDArray[Any]:
    field = _CONTENTS.get(datatype)
    if field is None:
        raise InvalidRequest(f"input '{name}': {datatype} has no typed contents; send it as raw_input_contents")
    others = [descriptor.name for descriptor, _ in contents.ListFields() if descriptor.name != field]
    values = getattr(contents, field)
    if others:
        raise InvalidRequest(f"input '{name}': expected {datatype} in {field}, got {', '.join(others)}")
    if len(values) != elements:
        raise InvalidRequest(f"input '{name}': expected {elements} elements for shape {list(shape)}, got {len(values)}")
    if datatype == "BYTES":
        array: NDArray[Any] = np.empty(elements, dtype=object)
        array[:] = list(values)
        return array.reshape(shape)
    dtype = NUMPY_TYPES[datatype]
    if datatype not in _NARROWER_THAN_THEIR_FIELD:
        return np.array(values, dtype=dtype).reshape(shape)
    wide = np.array(values, dtype=np.int64)
    narrow = wide.astype(dtype)
    if (narrow != wide).any():
        raise InvalidRequest(f"input '{name}': a value does not fit into {datatype}")
    return narrow.reshape(shape)


def _read_output(output: Any, limits: Limits) -> OutputRequest:
    if not output.parameters:
        return OutputRequest(output.name)
    return fields.output_request(output.name, read_parameters(output.parameters), None, limits)


def encode(response: InferResponse) -> Any:
    """A ModelInferResponse."""
    message = proto.ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    for output in response.outputs:
        message.outputs.add(name=output.name, datatype=output.datatype, shape=output.array.shape)
        message.raw_output_contents.append(bytes(codec.to_raw(output.array, output.datatype)))
    write_parameters(message.parameters, response.parameters)
    return message


def write_parameters(target: Any, parameters: Any) -> None:
    for key, value in parameters.items():
        if isinstance(value, bool):
            target[key].bool_param = value
        elif isinstance(value, int):
            target[key].int64_param = value
        elif isinstance(value, float):
            target[key].double_param = value
        else:
            target[key].string_param = value
