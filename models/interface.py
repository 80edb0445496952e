"""The seam between models and whoever serves them: arrays in, arrays and one ComputeReport per row out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from swan_runtime.budget import CalibrationTable
from swan_runtime.report import ComputeReport

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One declared input or output. shape: per row, without the batch dimension; -1 = any length.

    datatype is the Open Inference Protocol's name (FP32, INT64, BYTES, ...); BYTES arrays have dtype object (bytes).
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a client may know about a model. labels: class names of the first output, if it is a classifier."""

    name: str
    version: str
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    default_deadline_s: float
    labels: tuple[str, ...] = ()
    description: str = ""
    allow_nonfinite: bool = False


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """outputs: name -> array with the batch dimension first; reports: one per row."""

    outputs: Arrays
    reports: tuple[ComputeReport, ...]


class ServableModel(Protocol):
    """A loaded model. `infer` may be called from several threads at once and must not touch global torch settings."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def table(self) -> CalibrationTable | None:
        """None for a model without gates: it has one budget, 1.0."""

    @property
    def fingerprint(self) -> str:
        """Identifies the weights, for caches of what was measured on them."""

    def warm_up(self) -> None:
        """Compile and touch everything, so that the first request is as fast as the second."""

    def example(self, rows: int) -> Arrays:
        """`rows` realistic input rows, for profiling and warm-up."""

    def infer(self, inputs: Arrays, budgets: NDArray[np.float64]) -> ModelOutput:
        """inputs: name -> [rows, ...]; budgets: [rows]. Rows are independent: any batch equals its rows one by one.

        Raises swan_runtime.errors.InvalidInputError for a value the model refuses.
        """


@runtime_checkable
class ShowsUnits(Protocol):
    """Optional for a ServableModel: which units run for an input. For people to look at, off the serving path."""

    def fired_units(self, inputs: Arrays, budget: float) -> Mapping[str, NDArray[np.float32]]:
        """inputs: one row, as for `infer`. Returns layer name (as in the reports) -> [units].

        The value is the share of the row's masks in which the unit ran: 0 or 1 where a row has one mask.
        """


@runtime_checkable
class Repacks(Protocol):
    """Optional for a ServableModel: its weights can be kept in another precision."""

    def repack(self, weights: str) -> None:
        """weights: "float32" or "bfloat16". Before the model serves. Raises InvalidInputError for another value."""
