"""Tensors to bytes and JSON and back: exact for every datatype, and every broken length is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.api import codec
from service.api.json_tensors import from_json, to_json
from service.errors import InvalidRequest
from service.inference.datatypes import NOT_IN_JSON, NUMPY_TYPES

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
no_time_limit = settings(deadline=None, max_examples=60)


@st.composite
def numbers(draw: st.DrawFn) -> tuple[str, np.ndarray[Any, Any]]:
    datatype = draw(st.sampled_from(sorted(NUMPY_TYPES)))
    shape = draw(shapes)
    if datatype == "BF16":
        wide = draw(hnp.arrays(np.float32, shape, elements=st.floats(-100, 100, width=16)))
        return datatype, wide.astype(NUMPY_TYPES["BF16"])
    return datatype, draw(hnp.arrays(NUMPY_TYPES[datatype], shape))


@st.composite
def byte_arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    shape = draw(shapes)
    array = np.empty(math.prod(shape), dtype=object)
    array[:] = draw(st.lists(st.binary(max_size=9), min_size=array.size, max_size=array.size))
    return array.reshape(shape)


@no_time_limit
@given(numbers())
def test_raw_round_trip_of_numbers(case: tuple[str, np.ndarray[Any, Any]]) -> None:
    datatype, array = case
    raw = bytes(codec.to_raw(array, datatype))
    back = codec.from_raw("x", datatype, array.shape, array.size, raw)
    assert bytes(codec.to_raw(back, datatype)) == raw
    assert (back.shape, back.dtype) == (array.shape, NUMPY_TYPES[datatype])
    assert back.flags.writeable and back.flags.aligned and back.flags.c_contiguous


@no_time_limit
@given(byte_arrays())
def test_raw_round_trip_of_bytes(array: np.ndarray[Any, Any]) -> None:
    raw = bytes(codec.to_raw(array, "BYTES"))
    np.testing.assert_array_equal(codec.from_raw("x", "BYTES", array.shape, array.size, raw), array)


@no_time_limit
@given(byte_arrays(), st.data())
def test_every_cut_of_bytes_is_refused(array: np.ndarray[Any, Any], data: st.DataObject) -> None:
    raw = bytes(codec.to_raw(array, "BYTES"))
    cut = raw[: data.draw(st.integers(0, len(raw)))] if raw else raw
    if cut == raw:
        cut += b"\0"
    with pytest.raises(InvalidRequest):
        codec.from_raw("x", "BYTES", array.shape, array.size, cut)


@no_time_limit
@given(st.integers(0, 5), st.binary(max_size=40))
def test_any_bytes_either_fill_the_shape_or_are_refused(count: int, raw: bytes) -> None:
    try:
        array = codec.from_raw("x", "BYTES", (count,), count, raw)
    except InvalidRequest:
        return
    assert bytes(codec.to_raw(array, "BYTES")) == raw


def test_a_view_that_is_not_contiguous_is_sent_row_major() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert bytes(codec.to_raw(array, "FP32")) == np.ascontiguousarray(array).tobytes()


def test_an_array_of_another_type_is_sent_as_declared() -> None:
    assert bytes(codec.to_raw(np.array([1.0, 2.0]), "FP32")) == np.array([1, 2], np.float32).tobytes()
    assert bytes(codec.to_raw(np.array(["a"], dtype=object), "BYTES")) == b"\1\0\0\0a"


def test_bool_bytes_are_zero_or_one() -> None:
    with pytest.raises(InvalidRequest, match="BOOL bytes of 0 or 1"):
        codec.from_raw("x", "BOOL", (2,), 2, b"\1\2")


def test_declared_size_is_never_allocated() -> None:
    for datatype in ("FP32", "BYTES"):
        with pytest.raises(InvalidRequest):
            codec.from_raw("x", datatype, (2**31, 2**31), 2**62, b"1234")


@no_time_limit
@given(numbers().filter(lambda case: case[0] not in NOT_IN_JSON), st.booleans())
def test_json_round_trip(case: tuple[str, np.ndarray[Any, Any]], nested: bool) -> None:
    datatype, array = case
    if array.dtype.kind == "f":
        array = np.nan_to_num(array)
    data = array.tolist() if nested and array.ndim else array.reshape(-1).tolist()
    back = from_json("x", datatype, array.shape, array.size, data)
    np.testing.assert_array_equal(back, array)
    again = orjson.loads(to_json("y", back, datatype))
    np.testing.assert_array_equal(np.array(again, dtype=array.dtype), array.reshape(-1))


@no_time_limit
@given(st.lists(st.text(max_size=5), max_size=5))
def test_json_round_trip_of_texts(texts: list[str]) -> None:
    array = from_json("x", "BYTES", (len(texts),), len(texts), texts)
    assert orjson.loads(to_json("y", array, "BYTES")) == texts


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ((2, 2), [[1, 2], [3]]),
        ((2, 2), [[1, 2, 3, 4]]),
        ((2, 2), [1, [2, 3, 4]]),
        ((2, 2), [[1, 2], 3, 4]),
        ((1, 2, 2), [[1, 2, 3, 4]]),
        ((4,), [[1, 2, 3, 4]]),
        ((4,), [1, 2, [3], 4]),
        ((0,), [1]),
        ((), []),
        ((2,), []),
        ((2, 0), [[], [], []]),
    ],
)
def test_data_that_is_not_of_the_shape(shape: tuple[int, ...], data: Any) -> None:
    with pytest.raises(InvalidRequest):
        from_json("x", "INT32", shape, math.prod(shape), data)


@pytest.mark.parametrize(
    ("shape", "data"), [((0, 4), []), ((2, 0), [[], []]), ((2, 0), []), ((), [5]), ((1, 1), [[5]])]
)
def test_data_of_unusual_shapes(shape: tuple[int, ...], data: Any) -> None:
    assert from_json("x", "INT32", shape, math.prod(shape), data).shape == shape


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("BOOL", 1),
        ("INT32", True),
        ("INT32", 1.0),
        ("FP32", "1"),
        ("BYTES", 5),
        ("FP64", None),
        ("FP64", {}),
        ("FP64", 10**400),
    ],
)
def test_elements_of_the_wrong_kind(datatype: str, value: Any) -> None:
    with pytest.raises(InvalidRequest):
        from_json("x", datatype, (1,), 1, [value])


def test_texts_that_are_not_unicode() -> None:
    with pytest.raises(InvalidRequest, match="not valid Unicode"):
        from_json("x", "BYTES", (1,), 1, ["\ud800"])
    with pytest.raises(InvalidRequest, match="ask for it with binary_data true"):
        to_json("y", np.array([b"\xff"], dtype=object), "BYTES")


def test_nan_as_literal_or_null() -> None:
    array = np.array([np.nan, 1.0, -np.inf], np.float32)
    assert to_json("y", array, "FP32") == b"[NaN,1.0,-Infinity]"
    assert to_json("y", array, "FP32", nan_as_null=True) == b"[null,1.0,null]"
