"""A small real model for tests of the service: numpy, gated by budget, with exact arithmetic.

Weights and inputs are small integers in float64, so any batch equals its rows bit by bit, whatever BLAS does.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from models.interface import Arrays, ModelOutput, ModelSpec, TensorSpec
from swan_runtime.budget import BudgetPoint, CalibrationTable
from swan_runtime.errors import InvalidInputError
from swan_runtime.report import ComputeReport, LayerReport

BUDGETS = (0.25, 0.5, 0.75, 1.0)


class GatedNumpy:
    """y = relu(x W1)[:k] W2[:k] with k = ceil(budget * units): time and MACs grow with the budget.

    A row that holds a NaN is refused; a row whose first value is below -1e6 makes the whole batch fail.
    """

    def __init__(
        self, name: str = "gated", features: int = 8, units: int = 16, max_batch: int = 8, deadline_s: float = 1.0
    ) -> None:
        random = np.random.default_rng(7)
        self._w1 = random.integers(-3, 4, (features, units)).astype(np.float64)
        self._w2 = random.integers(-3, 4, (units, 4)).astype(np.float64)
        self.units = units
        self.spec = ModelSpec(
            name=name,
            version="1",
            platform="swan_test",
            inputs=(TensorSpec("x", "FP64", (-1,)),),
            outputs=(TensorSpec("y", "FP64", (4,)),),
            max_batch_size=max_batch,
            default_deadline_s=deadline_s,
        )
        self.fingerprint = f"{name}-{features}-{units}"
        self.table: CalibrationTable | None = CalibrationTable(
            model=name,
            fingerprint=self.fingerprint,
            metric="accuracy",
            n=1000,
            macs_dense=float(self._macs(units)),
            points=tuple(self._point(budget) for budget in BUDGETS),
        )

    def warm_up(self) -> None:
        self.infer(self.example(1), np.ones(1))

    def example(self, rows: int) -> Arrays:
        return {"x": np.random.default_rng(rows).integers(-9, 10, (rows, len(self._w1))).astype(np.float64)}

    def infer(self, inputs: Arrays, budgets: NDArray[np.float64]) -> ModelOutput:
        x = inputs["x"]
        if np.isnan(x).any():
            raise InvalidInputError("x", "numbers", "NaN")
        if (x[:, 0] < -1e6).any():
            raise RuntimeError("secret detail of a failing kernel")
        y = np.empty((len(x), 4))
        for budget in np.unique(budgets):
            rows = budgets == budget
            k = self._active(float(budget))
            y[rows] = np.maximum(x[rows] @ self._w1[: x.shape[1], :k], 0.0) @ self._w2[:k]
        return ModelOutput({"y": y}, tuple(self._report(float(budget)) for budget in budgets))

    def _active(self, budget: float) -> int:
        return math.ceil(budget * self.units)

    def _macs(self, k: int) -> int:
        return k * (len(self._w1) + 4)

    def _report(self, budget: float) -> ComputeReport:
        k = self._active(budget)
        layer = LayerReport("mlp", k, self.units, self._macs(k), 5, self._macs(self.units), "numpy")
        return ComputeReport(budget, (layer,), macs_fixed=3)

    def _point(self, budget: float) -> BudgetPoint:
        macs = float(self._macs(self._active(budget)))
        return BudgetPoint(budget, {"mlp": 1.0 - budget}, budget, budget, budget, macs, macs, 0.8 + 0.1 * budget)
