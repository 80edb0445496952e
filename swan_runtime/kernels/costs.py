"""Measured costs of one block's kernels: a small grid of (rows, density), interpolated. Choosing is a pure function."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

# A kernel that skips must promise this much before it replaces dense: the model is a measurement, not the truth.
MARGIN = 0.95


@dataclass(frozen=True)
class CostTable:
    """seconds[kernel][i][j]: best time of one call with rows[i] rows at densities[j]; both grids ascending."""

    rows: tuple[int, ...]
    densities: tuple[float, ...]
    seconds: Mapping[str, tuple[tuple[float, ...], ...]]

    def predict(self, kernel: str, rows: int, density: float) -> float:
        """Seconds for that call: linear between grid points, proportional to the rows beyond the last."""
        grid = self.seconds[kernel]
        at = [_interpolate(self.densities, line, density) for line in grid]
        if rows > self.rows[-1]:
            return at[-1] * rows / self.rows[-1]
        return _interpolate(tuple(float(row) for row in self.rows), tuple(at), float(rows))

    def choose(self, rows: int, density: float) -> str:
        """The kernel with the least predicted time; dense unless another one promises more than the margin."""
        best, least = "dense", self.predict("dense", rows, density) * MARGIN
        for kernel in self.seconds:
            if kernel != "dense" and self.predict(kernel, rows, density) < least:
                best, least = kernel, self.predict(kernel, rows, density)
        return best

    def break_even(self, rows: int) -> float:
        """The density up to which skipping pays, in [0, 1]; found by bisection: skipping gets dearer with density."""
        low, high = 0.0, 1.0
        if self.choose(rows, high) != "dense":
            return 1.0
        if self.choose(rows, low) == "dense":
            return 0.0
        for _ in range(10):
            middle = (low + high) / 2
            low, high = (low, middle) if self.choose(rows, middle) == "dense" else (middle, high)
        return low

    def to_json(self) -> str:
        return json.dumps({"rows": self.rows, "densities": self.densities, "seconds": self.seconds})

    @staticmethod
    def from_json(text: str) -> CostTable:
        """Raises ValueError, KeyError or TypeError for anything that is not a table."""
        raw = json.loads(text)
        rows = tuple(int(value) for value in raw["rows"])
        densities = tuple(float(value) for value in raw["densities"])
        seconds = {str(k): tuple(tuple(float(s) for s in line) for line in grid) for k, grid in raw["seconds"].items()}
        table = CostTable(rows, densities, seconds)
        if "dense" not in seconds or not all(table._fits(grid) for grid in seconds.values()):
            raise ValueError("a cost table with every kernel measured on the whole grid")
        return table

    def _fits(self, grid: tuple[tuple[float, ...], ...]) -> bool:
        sizes = len(grid) == len(self.rows) and all(len(line) == len(self.densities) for line in grid)
        return sizes and all(math.isfinite(s) and s > 0.0 for line in grid for s in line)


def _interpolate(xs: tuple[float, ...], ys: tuple[float, ...], x: float) -> float:
    if len(xs) == 1 or x <= xs[0]:
        return ys[0]
    i = min(bisect_right(xs, x), len(xs) - 1)
    share = (x - xs[i - 1]) / (xs[i] - xs[i - 1])
    return ys[i - 1] + min(share, 1.0) * (ys[i] - ys[i - 1])
