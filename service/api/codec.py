"""Tensors to bytes and back. Nothing is allocated from a declared size before the bytes in hand have been compared."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest
from service.inference.datatypes import NUMPY_TYPES

_LENGTH = struct.Struct("<I")


def from_raw(name: str, datatype: str, shape: tuple[int, ...], elements: int, raw: bytes | memoryview) -> NDArray[Any]:
    """Row-major little-endian bytes -> a writable, aligned array of its own. Raises InvalidRequest."""
    if datatype == "BYTES":
        return _bytes_from_raw(name, elements, raw).reshape(shape)
    dtype = NUMPY_TYPES[datatype]
    if elements * dtype.itemsize != len(raw):
        raise InvalidRequest(
            f"input '{name}': expected {elements * dtype.itemsize} bytes for {datatype} of shape {list(shape)}, "
            f"got {len(raw)}"
        )
    # the copy is one memcpy: it aligns the data, makes it writable for torch, and lets go of the request's body
    array = np.frombuffer(raw, dtype=dtype).reshape(shape).copy()
    if datatype == "BOOL" and elements and array.view(np.uint8).max() > 1:
        raise InvalidRequest(f"input '{name}': expected BOOL bytes of 0 or 1")
    return array


def _bytes_from_raw(name: str, elements: int, raw: bytes | memoryview) -> NDArray[np.object_]:
    """Each element: 4 bytes of little-endian length, then that many bytes."""
    if elements * _LENGTH.size > len(raw):
        raise InvalidRequest(
            f"input '{name}': expected {elements} BYTES elements, each with 4 bytes of length, got {len(raw)} bytes"
        )
    array = np.empty(elements, dtype=object)
    view, position = memoryview(raw), 0
    for index in range(elements):
        start = position + _LENGTH.size
        if start > len(view):
            raise InvalidRequest(f"input '{name}': the data ends inside the length of element {index}")
        end = start + _LENGTH.unpack_from(view, position)[0]
        if end > len(view):
            raise InvalidRequest(f"input '{name}': element {index} is longer than the {len(view) - start} bytes left")
        array[index] = bytes(view[start:end])
        position = end
    if position != len(view):
        raise InvalidRequest(f"input '{name}': {len(view) - position} bytes left over after {elements} elements")
    return array


def to_raw(array: NDArray[Any], datatype: str) -> bytes | memoryview:
    """An array -> row-major little-endian bytes; numbers without a copy where they already lie so."""
    if datatype == "BYTES":
        parts: list[bytes] = []
        for element in array.reshape(-1):
            data = element.encode() if isinstance(element, str) else bytes(element)
            parts += (_LENGTH.pack(len(data)), data)
        return b"".join(parts)
    plain = np.ascontiguousarray(array, dtype=NUMPY_TYPES[datatype])
    return plain.reshape(-1).view(np.uint8).data
