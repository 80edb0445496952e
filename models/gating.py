"""Gate somebody's trained dense torch model without training, calibrate it and package it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.calibration import metric_of
from models.errors import PackageError
from models.gated import PLATFORM, GatedServable, package_table
from models.interface import Arrays, TensorSpec
from models.package import Manifest, Package
from models.plain import NUMPY_TYPES, example_array, import_target
from models.recipes.packaging import tensors_of, write_package
from models.user_data import UserData, labels_of
from swan_runtime.budget import CalibrationTable
from swan_runtime.calibrate import CalibrationConfig, Inputs, calibrate
from swan_runtime.checkpoint import load_weights_
from swan_runtime.convert import gate_, gated_structure
from swan_runtime.errors import InvalidInputError

FAMILY = "gated_import"
OUTPUT = "OUTPUT"
BATCH_ROWS = 64
BUDGETS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


@dataclass(frozen=True, slots=True)
class DenseSource:
    """A trained dense model: "module:name" of a class or function, its keyword arguments, its safetensors."""

    import_path: str
    weights: Path | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """With its weights, in eval mode. Raises PackageError or CheckpointError."""
        module = build_module(self.import_path, self.arguments)
        if self.weights is not None:
            load_weights_(module, self.weights)
        return module.eval().requires_grad_(False)


@dataclass(frozen=True, slots=True)
class GateSettings:
    """How it is gated. granularity: a mask per "token" or per "request"; classes: names of the output's entries."""

    rank: int = 16
    granularity: str = "token"
    budgets: tuple[float, ...] = BUDGETS
    classes: tuple[str, ...] = ()


class SpecCodec:
    """Declared arrays to tensors in their declared order, one output tensor back."""

    def __init__(self, inputs: tuple[TensorSpec, ...]) -> None:
        self._inputs = inputs

    def encode(self, inputs: Arrays) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(np.ascontiguousarray(inputs[spec.name])) for spec in self._inputs)

    def decode(self, outputs: Tensor) -> Mapping[str, NDArray[Any]]:
        return {OUTPUT: outputs.numpy()}

    def example(self, rows: int) -> Arrays:
        """Seeded noise: what the model's own data look like is not known here."""
        generator = np.random.default_rng(rows)
        return {spec.name: example_array(spec, rows, generator) for spec in self._inputs}


def build_module(import_path: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Call the class or function that "module:name" names. Raises PackageError unless a torch module comes out."""
    target = import_target(import_path)
    try:
        module = target(**arguments)
    except TypeError as error:
        raise PackageError("config", f"the arguments of {import_path}", str(error)) from None
    if not isinstance(module, nn.Module):
        raise PackageError("import_path", "a class or function that gives a torch module", type(module).__name__)
    return module


def gate_package(
    name: str, source: DenseSource, columns: Mapping[str, NDArray[Any]], settings: GateSettings, repository: Path
) -> tuple[Path, CalibrationTable]:
    """Write NAME/1/ into `repository`: gates fitted on one half of the rows, calibrated on the other.

    columns: an array [n, ...] per input of the model, and optionally `labels` [n] class numbers. Quality is accuracy
    with labels; without, agreement (with classes) or cosine with the output at full budget.
    """
    dense = source.build()
    labels, arrays = labels_of(columns), _in_order(dense, columns)
    rows = _check_rows({**arrays, **({} if labels is None else {"labels": labels})})
    inputs = tuple(_declared(key, value) for key, value in arrays.items())
    data = {spec.name: arrays[spec.name].astype(NUMPY_TYPES[spec.datatype], copy=False) for spec in inputs}
    half, whole = rows // 2, UserData(data, labels)
    held_out = whole.take(slice(half, None))
    codec = SpecCodec(inputs)
    network = gate_(dense, _batches(codec, whole.take(slice(0, half))), settings.rank, settings.granularity)
    batches = _batches(codec, held_out)
    with torch.inference_mode():
        full = torch.cat([network(*batch) for batch in batches])
    metric, measure = metric_of(full, held_out.labels, bool(settings.classes))
    table = calibrate(network, batches, measure, CalibrationConfig(name, metric, settings.budgets))
    manifest = Manifest(
        name=name,
        family=FAMILY,
        import_path=source.import_path,
        config={"arguments": dict(source.arguments), "rank": settings.rank, "granularity": settings.granularity},
        description=f"{source.import_path}, gated without training (rank {settings.rank})",
        licence="as the dense model's",
        inputs=inputs,
        outputs=(TensorSpec(OUTPUT, "FP32", tuple(full.shape[1:])),),
        labels=settings.classes,
        max_batch_size=64,
        default_deadline_s=0.25,
        training={"command": "swan gate", "fitted on rows": half, "calibrated on rows": rows - half},
    )
    return write_package(repository, "1", manifest, tensors_of(network), table), table


def load_gated_import(package: Package) -> GatedServable:
    """Build the dense module again, put the gated layers in their places, load the package's weights."""
    manifest = package.manifest
    config = manifest.config
    if package.weights_path is None or not {"arguments", "rank", "granularity"} <= set(config):
        raise PackageError("config", "arguments, rank, granularity, and a file of weights", str(sorted(config)))
    dense = build_module(manifest.import_path, config["arguments"]).eval()
    network = gated_structure(dense, int(config["rank"]), str(config["granularity"]))
    load_weights_(network, package.weights_path)
    spec = manifest.spec(package.version, PLATFORM)
    return GatedServable(spec, network.eval(), package_table(package), SpecCodec(manifest.inputs))


def _in_order(model: nn.Module, columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The inputs in the order of forward's parameters where their names agree, else in the file's order."""
    inputs = {name: np.asarray(value) for name, value in columns.items() if name != "labels"}
    wanted = [name for name in inspect.signature(model.forward).parameters if name in inputs]
    return {name: inputs[name] for name in wanted} if len(wanted) == len(inputs) else inputs


def _declared(name: str, values: NDArray[Any]) -> TensorSpec:
    datatype = "FP32" if values.dtype.kind == "f" else next(
        (key for key, kind in NUMPY_TYPES.items() if np.dtype(kind) == values.dtype), ""
    )  # fmt: skip
    if datatype in ("", "BYTES"):
        raise InvalidInputError(name, "numbers or booleans", str(values.dtype))
    return TensorSpec(name, datatype, tuple(values.shape[1:]))


def _check_rows(arrays: Mapping[str, NDArray[Any]]) -> int:
    lengths = {name: len(value) for name, value in arrays.items()}
    if len(lengths) == 0 or len(set(lengths.values())) != 1 or min(lengths.values()) < 4:
        raise InvalidInputError("data", "inputs of one length, at least 4 rows", str(lengths))
    return next(iter(lengths.values()))


def _batches(codec: SpecCodec, data: UserData) -> list[Inputs]:
    return [codec.encode(part.inputs) for part in data.parts(BATCH_ROWS)]
