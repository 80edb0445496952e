"""Serves a calibrated gated model: arrays in and out around swan_runtime's Runtime, with a codec for each family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from models.errors import PackageError
from models.interface import Arrays, ModelOutput, ModelSpec
from models.package import Package
from swan_runtime.budget import CalibrationTable
from swan_runtime.runtime import Runtime

PLATFORM = "swan_safetensors"


class Codec(Protocol):
    """How a family's arrays become its network's arguments, and its network's outputs become arrays."""

    def encode(self, inputs: Arrays) -> tuple[Any, ...]:
        """Declared inputs -> positional arguments of the network, rows first."""

    def decode(self, outputs: Any) -> Mapping[str, NDArray[Any]]:
        """The network's answer -> the declared outputs."""

    def example(self, rows: int) -> Arrays:
        """Realistic declared inputs."""


class GatedServable:
    """A gated network with its table. Raises CalibrationError unless the table was measured on these weights."""

    def __init__(self, spec: ModelSpec, network: nn.Module, table: CalibrationTable, codec: Codec) -> None:
        self._spec = spec
        self.codec = codec
        self.runtime = Runtime(network, table)
        self._weights = "float32"

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def table(self) -> CalibrationTable | None:
        return self.runtime.table

    @property
    def fingerprint(self) -> str:
        """Another one for other weights: what was measured on float32 does not hold for bfloat16."""
        plain = self.runtime.fingerprint
        return plain if self._weights == "float32" else f"{plain}-{self._weights}"

    def repack(self, weights: str) -> None:
        self.runtime.repack(weights)
        self._weights = weights

    def warm_up(self) -> None:
        for rows in (1, min(8, self._spec.max_batch_size)):
            self.runtime.warm_up(*self.codec.encode(self.example(rows)))

    def example(self, rows: int) -> Arrays:
        return self.codec.example(rows)

    def infer(self, inputs: Arrays, budgets: NDArray[np.float64]) -> ModelOutput:
        outputs, reports = self.runtime.infer(self.codec.encode(inputs), budgets.tolist())
        return ModelOutput(self.codec.decode(outputs), reports)

    def fired_units(self, inputs: Arrays, budget: float) -> Mapping[str, NDArray[np.float32]]:
        """Layer -> [units]: share of the row's masks in which each unit ran."""
        shares = self.runtime.fired_units(self.codec.encode(inputs), budget)
        return {name: share.numpy() for name, share in shares.items()}


def package_table(package: Package) -> CalibrationTable:
    """The table every gated package must have."""
    table = package.table()
    if table is None:
        raise PackageError("calibration", "a table, as the family is gated", "none")
    return table
