"""What goes over the pipe between a replica and its model process: marshal for the frame, raw bytes for arrays.

Both ends are the same interpreter on the same machine, so neither versions nor byte order matter, and nobody else can
write to the pipe. Reports go as plain tuples: pickling frozen dataclasses costs ten times as much as a small model.
"""

from __future__ import annotations

import marshal
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.interface import Arrays, ModelOutput
from swan_runtime.report import ComputeReport, LayerReport

OK, INVALID, FAILED = 0, 1, 2  # how a call ended: its result, InvalidInputError's fields, a text for the log

Plain = Any  # what marshal takes: None, numbers, strings, bytes, tuples, lists and dicts of them


def dumps(message: Plain) -> bytes:
    return marshal.dumps(message)


def loads(data: bytes | memoryview) -> Plain:
    return marshal.loads(data)  # noqa: S302 - written by our own other half, see above


def plain_arrays(arrays: Arrays) -> Plain:
    return {name: _plain_array(array) for name, array in arrays.items()}


def arrays_of(plain: Plain) -> dict[str, NDArray[Any]]:
    """The arrays are writable: torch insists on it."""
    return {name: _array_of(*fields) for name, fields in plain.items()}


def plain_output(output: ModelOutput) -> Plain:
    return plain_arrays(output.outputs), [_plain_report(report) for report in output.reports]


def output_of(plain: Plain) -> ModelOutput:
    arrays, reports = plain
    return ModelOutput(arrays_of(arrays), tuple([_report_of(*fields) for fields in reports]))


def _plain_array(array: NDArray[Any]) -> Plain:
    if array.dtype == object:  # BYTES
        return "O", array.shape, array.ravel().tolist()
    return array.dtype.str, array.shape, array.tobytes()


def _array_of(dtype: str, shape: Sequence[int], data: Any) -> NDArray[Any]:
    if dtype == "O":
        array = np.empty(len(data), object)
        array[:] = data
        return array.reshape(shape)
    return np.frombuffer(bytearray(data), dtype).reshape(shape)


def _plain_report(report: ComputeReport) -> Plain:
    return report.budget, report.macs_fixed, [_plain_layer(layer) for layer in report.layers]


def _plain_layer(layer: LayerReport) -> tuple[Any, ...]:
    return (
        layer.name,
        layer.units_active,
        layer.units_total,
        layer.macs_active,
        layer.macs_gate,
        layer.macs_dense,
        layer.kernel,
        layer.cap_hits,
    )


def _report_of(budget: float, macs_fixed: int, layers: Sequence[Sequence[Any]]) -> ComputeReport:
    return ComputeReport(budget, tuple([LayerReport(*layer) for layer in layers]), macs_fixed)
