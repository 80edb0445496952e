"""Does a decoded request fit what the model declares? Messages name the field, what fits, what came, and the fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.interface import ModelSpec, TensorSpec
from service.errors import InvalidRequest
from service.inference.datatypes import FLOATS, NOT_IN_JSON
from service.types import InferRequest, OutputRequest

_MAX_SHOWN = 12


class RequestChecker:
    """Checks requests against one model's declaration. gated: refuse NaN and infinity unless the model allows them."""

    def __init__(self, spec: ModelSpec, gated: bool) -> None:
        self._spec = spec
        self._inputs = {tensor.name: tensor for tensor in spec.inputs}
        self._outputs = {tensor.name: tensor for tensor in spec.outputs}
        self._all_outputs = tuple(OutputRequest(name) for name in self._outputs)
        self._finite_only = gated and not spec.allow_nonfinite

    def rows(self, request: InferRequest) -> int:
        """Rows of a request that fits. Raises InvalidRequest."""
        if request.inputs.keys() != self._inputs.keys():
            self._refuse_names(request)
        rows = -1
        for name, tensor in self._inputs.items():
            array = request.inputs[name]
            if request.datatypes[name] != tensor.datatype:
                raise InvalidRequest(
                    f"input '{name}': expected datatype {tensor.datatype}, got {request.datatypes[name]}"
                )
            self._check_shape(tensor, array.shape)
            if rows not in (-1, array.shape[0]):
                raise InvalidRequest(f"input '{name}': expected a batch of {rows} rows as before, got {array.shape[0]}")
            rows = array.shape[0]
            if self._finite_only and tensor.datatype in FLOATS:
                _check_finite(name, array)
        return rows

    def outputs(self, request: InferRequest) -> tuple[OutputRequest, ...]:
        """What to answer, in the model's order; all outputs if the request names none. Raises InvalidRequest."""
        wanted = request.outputs or self._all_outputs
        by_name = {output.name: output for output in wanted}
        if len(by_name) != len(wanted):
            raise InvalidRequest("an output is requested twice")
        for output in wanted:
            tensor = self._outputs.get(output.name)
            if tensor is None:
                raise InvalidRequest(
                    f"unknown output '{output.name[:128]}'; model '{self._spec.name}' has {_names(self._outputs)}"
                )
            self._check_form(tensor, output, request.binary_outputs)
        return tuple(by_name[name] for name in self._outputs if name in by_name)

    def _check_form(self, tensor: TensorSpec, output: OutputRequest, binary_outputs: bool) -> None:
        if output.classification:
            if tensor.datatype in ("BYTES", "BOOL"):
                raise InvalidRequest(f"output '{tensor.name}': classification needs numbers, it has {tensor.datatype}")
            return
        binary = binary_outputs if output.binary is None else output.binary
        if not binary and tensor.datatype in NOT_IN_JSON:
            raise InvalidRequest(
                f"output '{tensor.name}': {tensor.datatype} cannot be JSON; ask for it with binary_data true"
            )

    def _check_shape(self, tensor: TensorSpec, shape: tuple[int, ...]) -> None:
        limit = self._spec.max_batch_size
        if len(shape) == len(tensor.shape) + 1 and _fits(tensor.shape, shape[1:]):
            if 1 <= shape[0] <= limit:
                return
            fix = "split the request" if shape[0] > limit else "send at least one row"
            raise InvalidRequest(f"input '{tensor.name}': expected a batch of 1 to {limit} rows, got {shape[0]}; {fix}")
        message = f"input '{tensor.name}': expected shape {_shape((-1, *tensor.shape))}, got {_shape(shape)}"
        if len(shape) == len(tensor.shape) and _fits(tensor.shape, shape):
            message += f"; add a batch dimension: {_shape((1, *shape))}"
        raise InvalidRequest(message)

    def _refuse_names(self, request: InferRequest) -> None:
        takes = f"model '{self._spec.name}' takes {_names(self._inputs)}"
        for name in request.inputs:
            if name not in self._inputs:
                raise InvalidRequest(f"unknown input '{name[:128]}'; {takes}")
        for name, tensor in self._inputs.items():
            if name not in request.inputs:
                raise InvalidRequest(
                    f"missing input '{name}' ({tensor.datatype} {_shape((-1, *tensor.shape))}); {takes}"
                )


def _fits(declared: Sequence[int], shape: Sequence[int]) -> bool:
    return all(want in (-1, got) for want, got in zip(declared, shape, strict=True))


def _check_finite(name: str, array: NDArray[Any]) -> None:
    if not np.isfinite(array).all():
        raise InvalidRequest(f"input '{name}': expected finite numbers, got NaN or infinity; replace or clip them")


def _shape(shape: Sequence[int]) -> str:
    return "[" + ",".join(str(size) for size in shape) + "]"


def _names(names: Sequence[str] | dict[str, TensorSpec]) -> str:
    shown = [f"'{name}'" for name in list(names)[:_MAX_SHOWN]]
    return ", ".join(shown) + (", ..." if len(names) > _MAX_SHOWN else "")
