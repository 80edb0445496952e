"""The fields of a request that both transports carry, checked against the limits. Every refusal names its field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import InvalidRequest, NotOffered
from service.inference.datatypes import DATATYPES
from service.inference.limits import Limits
from service.types import OutputRequest, ParameterValue

_SHARED_MEMORY = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")
_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")


def check_shape(name: str, shape: Any, limits: Limits) -> tuple[tuple[int, ...], int]:
    """The shape and its number of elements, both within limits. Raises InvalidRequest."""
    if not isinstance(shape, Sequence) or isinstance(shape, str | bytes):
        raise InvalidRequest(f"input '{name}': expected 'shape' as a list of integers, got {type(shape).__name__}")
    if len(shape) > limits.max_dims:
        raise InvalidRequest(f"input '{name}': expected at most {limits.max_dims} dimensions, got {len(shape)}")
    for size in shape:
        if type(size) is not int or not 0 <= size <= limits.max_dim:
            shown = repr(size)[:32]
            raise InvalidRequest(f"input '{name}': expected dimensions from 0 to {limits.max_dim}, got {shown}")
    return tuple(shape), math.prod(shape)


def check_datatype(name: str, datatype: Any) -> str:
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        shown = repr(datatype)[:32]
        raise InvalidRequest(f"input '{name}': expected a datatype of {', '.join(DATATYPES)}, got {shown}")
    return datatype


def check_parameters(what: str, parameters: Mapping[str, Any], limits: Limits) -> None:
    """Names and values of a parameter map. Raises InvalidRequest."""
    if len(parameters) > limits.max_parameters:
        raise InvalidRequest(f"{what}: expected at most {limits.max_parameters} parameters, got {len(parameters)}")
    for key, value in parameters.items():
        if len(key) > limits.max_parameter_chars:
            raise InvalidRequest(f"{what}: a parameter's name is longer than {limits.max_parameter_chars} characters")
        if not isinstance(value, bool | int | float | str):
            raise InvalidRequest(
                f"{what}: parameter '{key[:64]}': expected a string, number or boolean, got {type(value).__name__}"
            )
        if isinstance(value, str) and len(value) > limits.max_parameter_chars:
            raise InvalidRequest(
                f"{what}: parameter '{key[:64]}' is longer than {limits.max_parameter_chars} characters"
            )


def check_id(request_id: Any, limits: Limits) -> str:
    if not isinstance(request_id, str):
        raise InvalidRequest(f"field 'id': expected a string, got {type(request_id).__name__}")
    if len(request_id) > limits.max_id_chars:
        raise InvalidRequest(f"field 'id': expected at most {limits.max_id_chars} characters, got {len(request_id)}")
    if not request_id.isascii() and request_id.encode(errors="replace").decode() != request_id:
        raise InvalidRequest("field 'id': not valid Unicode")
    return request_id


def check_request_parameters(parameters: Mapping[str, Any], limits: Limits) -> dict[str, ParameterValue]:
    """The request's own parameters, reserved and unoffered ones refused."""
    check_parameters("request", parameters, limits)
    for key in parameters:
        if key.startswith("triton_"):
            raise InvalidRequest(f"parameter '{key[:64]}': names that start with 'triton_' are reserved")
    return dict(parameters)


def refuse_sequences(parameters: Mapping[str, ParameterValue]) -> None:
    for key in _SEQUENCE:
        if parameters.get(key):
            raise NotOffered(f"parameter '{key}': sequences are not offered; every request stands alone")


def output_request(name: str, parameters: Mapping[str, Any], binary: bool | None, limits: Limits) -> OutputRequest:
    """One requested output from its parameters, the same on both transports. Raises InvalidRequest or NotOffered."""
    what = f"output '{name[:128]}'"
    check_parameters(what, parameters, limits)
    refuse_shared_memory(what, parameters)
    count = parameters.get("classification", 0)
    if type(count) is not int or count < 0:
        raise InvalidRequest(f"{what}: classification: expected an integer >= 0, got {repr(count)[:32]}")
    return OutputRequest(name, count, binary)


def refuse_shared_memory(what: str, parameters: Mapping[str, Any]) -> None:
    for key in _SHARED_MEMORY:
        if key in parameters:
            raise NotOffered(f"{what}: shared memory is not offered; send the data in the request")
