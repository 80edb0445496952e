"""ServiceProfile: compute time of a batch as a function of budget and rows; how it is fitted, checked and corrected."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.control.timetable import Timetable

MAX_RELATIVE_ERROR = 0.3
AFFINE_RELATIVE_ERROR = 0.1
REMEMBERED_BUDGETS = 64


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed batch."""

    rows: int
    budget: float
    seconds: float


class ServiceProfile:
    """t(budget, rows) in seconds on a grid, bilinear between grid points, non-decreasing in both.

    budgets: ascending knots. batches: ascending rows. seconds[i][j]: time of batches[i] rows at budgets[j].
    Outside the knots the budget is clamped; beyond the largest batch time grows in proportion to rows.
    Raises ValueError if the grid is not monotone, positive and finite.
    """

    def __init__(self, budgets: Sequence[float], batches: Sequence[int], seconds: Sequence[Sequence[float]]) -> None:
        self.budgets = tuple(map(float, budgets))
        self.batches = tuple(batches)
        self.grid = tuple(tuple(map(float, row)) for row in seconds)
        self._check()
        self._times: dict[tuple[float, int], list[float]] = {}
        self._ratios: dict[tuple[int, int], float] = {}
        self.timetables: dict[object, Timetable] = {}
        self._rows: list[tuple[float, ...]] = [self._interpolate_rows(rows) for rows in range(self.batches[-1] + 1)]

    @classmethod
    def affine(
        cls, t0: float, per_row: float, per_row_budget: float, budgets: tuple[float, float], max_batch: int
    ) -> ServiceProfile:
        """t = t0 + rows * (per_row + per_row_budget * budget) for budgets within (lowest, highest)."""
        batches = (1, max_batch) if max_batch > 1 else (1,)
        grid = [[t0 + rows * (per_row + per_row_budget * budget) for budget in budgets] for rows in batches]
        return cls(budgets, batches, grid)

    def seconds(self, budget: float, rows: int) -> float:
        """Time of a batch of `rows` rows whose mean budget is `budget`."""
        knots, budgets = self.at_knots(rows), self.budgets
        if budget <= budgets[0]:
            return knots[0]
        if budget >= budgets[-1]:
            return knots[-1]
        j = bisect_right(budgets, budget)
        share = (budget - budgets[j - 1]) / (budgets[j] - budgets[j - 1])
        return knots[j - 1] + share * (knots[j] - knots[j - 1])

    def budget_for(self, seconds: float, rows: int) -> float:
        """The largest budget at which `rows` rows take at most `seconds`; the lowest knot if none does."""
        knots, budgets = self.at_knots(rows), self.budgets
        j = bisect_right(knots, seconds)
        if j == 0:
            return budgets[0]
        if j == len(knots):
            return budgets[-1]
        share = (seconds - knots[j - 1]) / (knots[j] - knots[j - 1])
        return budgets[j - 1] + share * (budgets[j] - budgets[j - 1])

    def at_knots(self, rows: int) -> tuple[float, ...]:
        """Seconds of a batch of `rows` rows at each knot of `budgets`."""
        if rows < len(self._rows):
            return self._rows[rows]
        return tuple(second * rows / self.batches[-1] for second in self.grid[-1])

    def ratio(self, rows: int, of_rows: int) -> float:
        """Largest t(budget, rows) / t(budget, of_rows) over the budgets."""
        key = (rows, of_rows)
        known = self._ratios.get(key)
        if known is None:
            pairs = zip(self.at_knots(rows), self.at_knots(of_rows), strict=True)
            known = self._ratios[key] = max(a / b for a, b in pairs)
        return known

    def largest_batch(self, budget: float, seconds: float, max_rows: int) -> int:
        """Most rows, up to `max_rows` and at least 1, that take at most `seconds` at `budget`."""
        times = self._times.get((budget, max_rows))
        if times is None:
            if len(self._times) >= REMEMBERED_BUDGETS:
                self._times.clear()
            times = self._times[budget, max_rows] = [self.seconds(budget, rows) for rows in range(1, max_rows + 1)]
        return max(1, bisect_right(times, seconds))

    def _interpolate_rows(self, rows: int) -> tuple[float, ...]:
        i = bisect_left(self.batches, rows)
        if i == 0:
            return self.grid[0]
        low, high = self.batches[i - 1], self.batches[i]
        share = (rows - low) / (high - low)
        return tuple(a + share * (b - a) for a, b in zip(self.grid[i - 1], self.grid[i], strict=True))

    def _check(self) -> None:
        for name, knots in (("budgets", self.budgets), ("batches", self.batches)):
            if not knots or any(b <= a for a, b in itertools.pairwise(knots)):
                raise ValueError(f"{name} must be ascending, got {knots}")
        if self.batches[0] != 1:
            raise ValueError(f"batches must start at 1, got {self.batches}")
        if any(len(row) != len(self.budgets) for row in self.grid) or len(self.grid) != len(self.batches):
            raise ValueError(f"the grid must be {len(self.batches)} x {len(self.budgets)}")
        if not all(math.isfinite(value) and value > 0 for row in self.grid for value in row):
            raise ValueError("every time must be finite and above 0")
        if any(b < a for row in self.grid for a, b in itertools.pairwise(row)):
            raise ValueError("time must not fall with the budget")
        if any(
            b < a for low, high in zip(self.grid, self.grid[1:], strict=False) for a, b in zip(low, high, strict=True)
        ):
            raise ValueError("time must not fall with the rows")


@dataclass(frozen=True, slots=True)
class ProfileFit:
    """A fitted profile and whether it may steer.

    relative_error: largest |fitted - measured| / measured over the grid. kind: affine or table. problems: why the
    budget must not adapt, empty if it may.
    """

    profile: ServiceProfile
    relative_error: float
    kind: str
    problems: tuple[str, ...] = ()

    @property
    def adaptive(self) -> bool:
        return not self.problems


def fit_profile(samples: Iterable[Sample], max_relative_error: float = MAX_RELATIVE_ERROR) -> ProfileFit:
    """Fit the medians of a full grid of samples: affine where that is true to 10 %, else an isotonic table.

    Raises ValueError for samples that do not cover the grid {batches} x {budgets} or that hold no positive time.
    """
    budgets, batches, measured = _medians(samples)
    affine = _fit_affine(budgets, batches, measured)
    if affine is not None:
        error = _relative_error(affine, budgets, batches, measured)
        if error <= AFFINE_RELATIVE_ERROR:
            return ProfileFit(affine, error, "affine", _problems(affine, error, max_relative_error))
    table = ServiceProfile(budgets, batches, _isotonic(measured))
    error = _relative_error(table, budgets, batches, measured)
    return ProfileFit(table, error, "table", _problems(table, error, max_relative_error))


def _problems(profile: ServiceProfile, error: float, max_relative_error: float) -> tuple[str, ...]:
    problems = []
    if error > max_relative_error:
        problems.append(f"times are not monotone: the fit is {error:.0%} off, allowed {max_relative_error:.0%}")
    low, high = profile.at_knots(1)[0], profile.at_knots(1)[-1]
    if len(profile.budgets) > 1 and high < 1.02 * low:
        problems.append(f"the budget does not move the time: {low:.6f} s at the lowest, {high:.6f} s at the highest")
    return tuple(problems)


def _medians(samples: Iterable[Sample]) -> tuple[list[float], list[int], list[list[float]]]:
    cells: defaultdict[tuple[int, float], list[float]] = defaultdict(list)
    for sample in samples:
        if not (math.isfinite(sample.seconds) and sample.seconds > 0):
            raise ValueError(f"a time must be finite and above 0, got {sample.seconds}")
        cells[sample.rows, sample.budget].append(sample.seconds)
    batches = sorted({rows for rows, _ in cells})
    budgets = sorted({budget for _, budget in cells})
    missing = [(rows, budget) for rows in batches for budget in budgets if (rows, budget) not in cells]
    if not cells or missing:
        raise ValueError(f"no sample for (rows, budget) {missing[:5] or 'at all'}")
    return budgets, batches, [[median(cells[rows, budget]) for budget in budgets] for rows in batches]


def _fit_affine(budgets: Sequence[float], batches: Sequence[int], measured: list[list[float]]) -> ServiceProfile | None:
    """Least squares of measured / seconds on (1, rows, rows * budget) / seconds; None if it is not a valid profile."""
    points = [
        ((1.0 / t, rows / t, rows * budget / t), 1.0)
        for rows, line in zip(batches, measured, strict=True)
        for budget, t in zip(budgets, line, strict=True)
    ]
    normal = [[sum(x[i] * x[j] for x, _ in points) for j in range(3)] for i in range(3)]
    right = [sum(x[i] * y for x, y in points) for i in range(3)]
    solution = _solve(normal, right)
    if solution is None:
        return None
    t0, per_row, per_row_budget = solution
    grid = [[t0 + rows * (per_row + per_row_budget * budget) for budget in budgets] for rows in batches]
    try:
        return ServiceProfile(budgets, batches, grid)
    except ValueError:
        return None


def _solve(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """Gauss with pivoting; None if the matrix is singular (one batch size or one budget only)."""
    n = len(right)
    rows = [[*line, value] for line, value in zip(matrix, right, strict=True)]
    scale = max(abs(value) for line in matrix for value in line)
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(rows[r][i]))
        if abs(rows[pivot][i]) <= 1e-12 * scale:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(n):
            if r != i:
                factor = rows[r][i] / rows[i][i]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i], strict=True)]
    return [rows[i][n] / rows[i][i] for i in range(n)]


def _isotonic(measured: list[list[float]]) -> list[list[float]]:
    """Non-decreasing in both directions: pool along budgets, then never below the smaller batch."""
    grid = [_pool(line) for line in measured]
    for low, high in itertools.pairwise(grid):
        high[:] = [max(a, b) for a, b in zip(low, high, strict=True)]
    return grid


def _pool(values: Sequence[float]) -> list[float]:
    """Pool adjacent violators: the closest non-decreasing sequence in least squares."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        total, count = value, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / count:
            previous = blocks.pop()
            total, count = total + previous[0], count + previous[1]
        blocks.append((total, count))
    return [total / count for total, count in blocks for _ in range(count)]


def _relative_error(
    profile: ServiceProfile, budgets: Sequence[float], batches: Sequence[int], measured: list[list[float]]
) -> float:
    return max(
        abs(profile.seconds(budget, rows) - t) / t
        for rows, line in zip(batches, measured, strict=True)
        for budget, t in zip(budgets, line, strict=True)
    )


class Slowdown:
    """kappa: how much slower batches run than profiled (EWMA of actual / predicted), and how much that varies.

    A ratio is clipped at 4, so one huge stall cannot poison the correction. A cold replica starts at 1.3 and decays.
    Nothing makes a machine faster than it is: several batches in a row that are much quicker than expected mean a
    profile taken on a busy one, which is forgotten within a dozen of them.
    """

    GAIN = 0.05
    QUICK, QUICK_GAIN = 0.6, 0.2  # below this share of what was expected; a single one may be a lull of the machine
    SEVERAL = 3
    CLIP = 4.0

    def __init__(self, kappa: float = 1.3, variance: float = 0.0025) -> None:
        self.kappa = kappa
        self.variance = variance
        self.clipped_in_a_row = 0
        self._quick_in_a_row = 0

    @property
    def sigma(self) -> float:
        return math.sqrt(self.variance)

    def update(self, predicted_s: float, actual_s: float) -> None:
        """Learn from one batch; values that are no positive numbers are ignored."""
        if not (predicted_s > 0 and actual_s > 0 and math.isfinite(predicted_s) and math.isfinite(actual_s)):
            return
        ratio = actual_s / predicted_s
        self.clipped_in_a_row = self.clipped_in_a_row + 1 if ratio >= self.CLIP else 0
        self._quick_in_a_row = self._quick_in_a_row + 1 if ratio < self.QUICK * self.kappa else 0
        if self._quick_in_a_row >= self.SEVERAL:
            self.kappa += self.QUICK_GAIN * (ratio - self.kappa)
            return
        ratio = min(ratio, self.CLIP)
        self.kappa += self.GAIN * (ratio - self.kappa)
        self.variance += self.GAIN * ((ratio - self.kappa) ** 2 - self.variance)
