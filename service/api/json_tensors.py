"""Tensor data as JSON numbers and strings, strictly: no wrapped integers, no ragged lists, no booleans for numbers."""

from __future__ import annotations

import json
import math
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.errors import InvalidRequest
from service.inference.datatypes import FLOATS, NOT_IN_JSON, NUMPY_TYPES


def from_json(name: str, datatype: str, shape: tuple[int, ...], elements: int, data: Any) -> NDArray[Any]:
    """Nested or flat row-major lists -> an array. Raises InvalidRequest."""
    if datatype in NOT_IN_JSON:
        raise InvalidRequest(f"input '{name}': {datatype} cannot be JSON; send it as binary data")
    flat = _flatten(name, shape, data)
    if len(flat) != elements:
        raise InvalidRequest(f"input '{name}': expected {elements} elements for shape {list(shape)}, got {len(flat)}")
    if datatype == "BYTES":
        return _texts(name, flat).reshape(shape)
    return _numbers(name, datatype, flat).reshape(shape)


def _flatten(name: str, shape: tuple[int, ...], data: Any) -> list[Any]:
    """Level by level and in C, so that neither depth nor size costs a Python call an element."""
    if type(data) is not list:
        raise InvalidRequest(f"input '{name}': expected 'data' as a list, got {type(data).__name__}")
    level: list[Any] = data
    for axis in range(len(shape) - 1):
        kinds = set(map(type, level))
        if list not in kinds:
            return level
        if kinds != {list} or len(level) != math.prod(shape[: axis + 1]) or set(map(len, level)) != {shape[axis + 1]}:
            raise _misnested(name, shape)
        level = list(chain.from_iterable(level))
    if list in set(map(type, level)):
        raise _misnested(name, shape)
    return level


def _misnested(name: str, shape: tuple[int, ...]) -> InvalidRequest:
    return InvalidRequest(f"input '{name}': nested data must have the shape {list(shape)}, or be one flat list")


def _texts(name: str, flat: list[Any]) -> NDArray[np.object_]:
    _check_kinds(name, "BYTES", flat, {str})
    array = np.empty(len(flat), dtype=object)
    try:
        array[:] = [text.encode() for text in flat]
    except UnicodeEncodeError:
        raise InvalidRequest(f"input '{name}': a string is not valid Unicode") from None
    return array


def _numbers(name: str, datatype: str, flat: list[Any]) -> NDArray[Any]:
    dtype = NUMPY_TYPES[datatype]
    if datatype == "BOOL":
        _check_kinds(name, datatype, flat, {bool})
        return np.array(flat, dtype=dtype)
    if datatype in FLOATS:
        _check_kinds(name, datatype, flat, {int, float})
        return _floats(name, datatype, flat)
    _check_kinds(name, datatype, flat, {int})
    limits = np.iinfo(dtype.name)
    if flat and not (min(flat) >= limits.min and max(flat) <= limits.max):
        wrong = next(value for value in flat if not limits.min <= value <= limits.max)
        raise InvalidRequest(
            f"input '{name}': expected {datatype} from {limits.min} to {limits.max}, got {str(wrong)[:32]}"
        )
    return np.array(flat, dtype=dtype)


def _floats(name: str, datatype: str, flat: list[Any]) -> NDArray[Any]:
    try:
        wide = np.array(flat, dtype=np.float64)
    except OverflowError:
        raise InvalidRequest(f"input '{name}': a number is too large for {datatype}") from None
    with np.errstate(over="ignore"):
        array = wide.astype(NUMPY_TYPES[datatype], copy=False)
    if datatype != "FP64" and (np.isinf(array) & np.isfinite(wide)).any():
        raise InvalidRequest(f"input '{name}': a number is too large for {datatype}")
    return array


def _check_kinds(name: str, datatype: str, flat: list[Any], allowed: set[type]) -> None:
    wrong = set(map(type, flat)) - allowed
    if wrong:
        expected = " or ".join(sorted(_KIND_NAMES[kind] for kind in allowed))
        got = ", ".join(sorted(_KIND_NAMES.get(kind, kind.__name__) for kind in wrong))
        raise InvalidRequest(f"input '{name}': expected {expected} elements for {datatype}, got {got}")


_KIND_NAMES: dict[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "list",
    dict: "object",
    type(None): "null",
}


def to_json(name: str, array: NDArray[Any], datatype: str, nan_as_null: bool = False) -> bytes:
    """An array -> one flat JSON list. NaN and infinity become the literals that tritonclient reads, or null."""
    flat = array.reshape(-1)
    if datatype == "BYTES":
        return orjson.dumps([_text(name, element) for element in flat])
    if datatype in FLOATS and not nan_as_null and not np.isfinite(flat).all():
        return json.dumps(flat.tolist(), separators=(",", ":")).encode()
    plain = np.ascontiguousarray(flat, dtype=NUMPY_TYPES[datatype])
    return orjson.dumps(plain, option=orjson.OPT_SERIALIZE_NUMPY)


def _text(name: str, element: bytes | str) -> str:
    if isinstance(element, str):
        return element
    try:
        return element.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(
            f"output '{name}': its bytes are not UTF-8 and cannot be JSON; ask for it with binary_data true"
        ) from None
