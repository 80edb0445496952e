"""Anybody's ungated model next to gated ones: a torch module or a callable, named by import path."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.errors import PackageError
from models.interface import Arrays, ModelOutput, ModelSpec, TensorSpec
from models.package import Package
from swan_runtime.budget import CalibrationTable
from swan_runtime.errors import CheckpointError, InvalidInputError
from swan_runtime.report import ComputeReport

ArrayFunction = Callable[[Arrays], Mapping[str, Any]]

NUMPY_TYPES: dict[str, type[Any]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}


class PlainModel:
    """Serves a function of arrays at its only budget, 1. macs_per_row: 0 where nobody can count them."""

    def __init__(self, spec: ModelSpec, function: ArrayFunction, fingerprint: str, macs_per_row: int = 0) -> None:
        self._spec = spec
        self._function = function
        self._fingerprint = fingerprint
        self._report = ComputeReport(budget=1.0, layers=(), macs_fixed=macs_per_row)

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def table(self) -> CalibrationTable | None:
        return None

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def warm_up(self) -> None:
        for rows in (1, self._spec.max_batch_size):
            self.infer(self.example(rows), np.ones(rows))

    def example(self, rows: int) -> Arrays:
        """Seeded noise of the declared shapes; a free axis has length 1."""
        generator = np.random.default_rng(rows)
        return {spec.name: example_array(spec, rows, generator) for spec in self._spec.inputs}

    def infer(self, inputs: Arrays, budgets: NDArray[np.float64]) -> ModelOutput:
        """Raises InvalidInputError if the function's outputs are not the declared ones: name, rows or type."""
        answered = self._function({spec.name: inputs[spec.name] for spec in self._spec.inputs})
        outputs = {spec.name: _declared(answered, spec, len(budgets)) for spec in self._spec.outputs}
        return ModelOutput(outputs, (self._report,) * len(budgets))


def load_plain(package: Package) -> PlainModel:
    """Build the model of an `import` package: a torch module (class or instance) or a callable.

    A class of torch modules is constructed with the manifest's config and gets the package's weights; a module is
    called with one tensor per declared input, in order. Any other callable gets a dict of arrays and returns one.
    """
    manifest = package.manifest
    target = import_target(manifest.import_path)
    if isinstance(target, type) and issubclass(target, nn.Module):
        target = target(**manifest.config)
    fingerprint = manifest.weights.sha256 if manifest.weights else f"import:{manifest.import_path}"
    if not isinstance(target, nn.Module):
        return PlainModel(manifest.spec(package.version, "python_callable"), target, fingerprint)
    if package.weights_path is not None:
        load_weights_(target, package)
    spec = manifest.spec(package.version, "pytorch_module")
    function = module_function(target.eval(), spec)
    return PlainModel(spec, function, fingerprint, count_macs(function, spec))


def import_target(import_path: str) -> Any:
    """The object that "module:name" names. Raises PackageError if there is none, or if it cannot be called."""
    module_name, _, name = import_path.partition(":")
    try:
        target = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise PackageError("import_path", "an importable module:name", f"{import_path} ({error})") from None
    if not callable(target):
        raise PackageError("import_path", "a torch module or callable", type(target).__name__)
    return target


def load_weights_(module: nn.Module, package: Package) -> None:
    """Strictly load the package's weights into `module`. Raises CheckpointError when names or shapes differ."""
    assert package.weights_path is not None
    try:
        module.load_state_dict(load_file(package.weights_path))
    except RuntimeError as error:
        raise CheckpointError("weights", f"the tensors of {type(module).__name__}", str(error)) from None


def module_function(module: nn.Module, spec: ModelSpec) -> ArrayFunction:
    """Arrays by name -> tensors by position -> module -> arrays by the declared outputs' names."""
    names = [item.name for item in spec.outputs]

    def call(inputs: Arrays) -> Mapping[str, Any]:
        with torch.inference_mode():
            out = module(*(torch.from_numpy(np.ascontiguousarray(inputs[item.name])) for item in spec.inputs))
        if isinstance(out, Mapping):
            return {name: value.numpy() for name, value in out.items()}
        values = out if isinstance(out, tuple | list) else (out,)
        return {name: value.numpy() for name, value in zip(names, values, strict=False)}

    return call


def count_macs(function: ArrayFunction, spec: ModelSpec) -> int:
    """MACs of one row of noise, by torch's own counter (matrix products, convolutions, attention)."""
    generator = np.random.default_rng(0)
    inputs = {item.name: example_array(item, 1, generator) for item in spec.inputs}
    with FlopCounterMode(display=False) as counter:
        function(inputs)
    return cast(int, counter.get_total_flops()) // 2


def example_array(spec: TensorSpec, rows: int, generator: np.random.Generator) -> NDArray[Any]:
    shape = (rows, *(1 if length == -1 else length for length in spec.shape))
    if spec.datatype == "BYTES":
        return np.full(shape, b"example", dtype=np.object_)
    dtype = np.dtype(NUMPY_TYPES[spec.datatype])
    if dtype.kind == "f":
        return generator.random(shape).astype(dtype)
    return generator.integers(0, 2, shape).astype(dtype)


def _declared(answered: Mapping[str, Any], spec: TensorSpec, rows: int) -> NDArray[Any]:
    if spec.name not in answered:
        raise InvalidInputError(f"output {spec.name}", "as declared", f"only {sorted(answered)}")
    array = np.asarray(answered[spec.name])
    if array.shape[:1] != (rows,) or array.dtype != NUMPY_TYPES[spec.datatype]:
        expected = f"{rows} rows of {spec.datatype}"
        raise InvalidInputError(f"output {spec.name}", expected, f"{array.dtype} {list(array.shape)}")
    return array
