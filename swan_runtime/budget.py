"""CalibrationTable: budget -> thresholds per layer, with the activity, MACs and quality to expect. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from swan_runtime.errors import CalibrationError, InvalidInputError

FORMAT_VERSION = 1
OPEN = -1e30
"""Threshold under every finite score: all units run. Finite, so that JSON and float32 can hold it."""


def check_budget(budget: float, name: str = "budget") -> float:
    """Return `budget` as a float in (0, 1] or raise InvalidInputError."""
    value = float(budget)
    if not (math.isfinite(value) and 0.0 < value <= 1.0):
        raise InvalidInputError(name, "a number in (0, 1]", repr(budget))
    return value


@dataclass(frozen=True, slots=True)
class BudgetPoint:
    """What one served budget means, measured on held-out calibration data.

    thresholds: layer name -> score threshold (a unit is active iff score > threshold).
    activity_*: share of gated units that ran, MAC-weighted over layers: mean, median, 99th percentile over samples.
    macs_mean / macs_p99: MACs per request, gates and ungated parts included.
    quality: value of the table's metric at this budget.
    k_max: layer name -> most units of one mask that may run at this budget; absent = no cap. Beyond it the top scores
    are kept and the hit is counted.
    """

    budget: float
    thresholds: Mapping[str, float]
    activity_mean: float
    activity_p50: float
    activity_p99: float
    macs_mean: float
    macs_p99: float
    quality: float
    k_max: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CalibrationTable:
    """The served budgets of one model, ascending; monotone in activity, MACs and quality; on the upper concave hull.

    fingerprint: identifies the weights the table was measured on (sha256 of the checkpoint's tensors).
    metric: name of the quality measure ("accuracy", "recall_at_1", "agreement", ...), n: samples it was measured on.
    macs_dense: MACs per request of the same model without gates.
    k_max: layer name -> cap for layers that a point gives none for.
    """

    model: str
    fingerprint: str
    metric: str
    n: int
    macs_dense: float
    points: tuple[BudgetPoint, ...]
    k_max: Mapping[str, int] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version > FORMAT_VERSION:
            raise CalibrationError("format_version", f"at most {FORMAT_VERSION}", str(self.format_version))
        if not self.points:
            raise CalibrationError("points", "at least one budget", "none")
        layers = set(self.points[0].thresholds)
        for before, after in zip(self.points, self.points[1:], strict=False):
            if not after.budget > before.budget:
                raise CalibrationError("points", "strictly ascending budgets", f"{before.budget} then {after.budget}")
            for name in ("activity_mean", "macs_mean", "quality"):
                if getattr(after, name) < getattr(before, name) - 1e-9:
                    raise CalibrationError(
                        f"points[{after.budget}].{name}",
                        f"monotone, at least {getattr(before, name):.6g}",
                        f"{getattr(after, name):.6g}",
                    )
        for point in self.points:
            check_budget(point.budget, "points.budget")
            if set(point.thresholds) != layers:
                raise CalibrationError(
                    f"points[{point.budget}].thresholds", f"layers {sorted(layers)}", str(sorted(point.thresholds))
                )

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self.points[0].thresholds)

    @property
    def budgets(self) -> tuple[float, ...]:
        return tuple(point.budget for point in self.points)

    @property
    def floor(self) -> float:
        """Smallest served budget."""
        return self.points[0].budget

    def at(self, budget: float) -> BudgetPoint:
        """The point for any budget in (0, 1], linear between served budgets, clamped at the ends.

        Between a point and one whose gates are all open, the lower point is served as it is.
        """
        value = check_budget(budget)
        budgets = self.budgets
        i = bisect_left(budgets, value)
        if i == len(budgets):
            return self.points[-1]
        if i == 0 or budgets[i] == value:
            return self.points[i]
        low, high = self.points[i - 1], self.points[i]
        return _between(low, high, (value - low.budget) / (high.budget - low.budget), value)

    def expected_quality(self, budget: float) -> float:
        return self.at(budget).quality

    def check_model(self, fingerprint: str) -> None:
        """Raise CalibrationError unless the table was measured on these weights."""
        if self.fingerprint != fingerprint:
            raise CalibrationError("fingerprint", f"the table of weights {fingerprint[:12]}", self.fingerprint[:12])

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    def save(self, path: Path) -> None:
        path.write_text(self.to_json(), encoding="utf-8")

    @staticmethod
    def from_json(text: str) -> CalibrationTable:
        """Parse and check a table. Raises CalibrationError on anything unknown, missing, ill-typed or newer."""
        try:
            raw = json.loads(text)
        except json.JSONDecodeError as error:
            raise CalibrationError("calibration", "valid JSON", str(error)) from None
        if not isinstance(raw, dict):
            raise CalibrationError("calibration", "a JSON object", type(raw).__name__)
        version = raw.get("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise CalibrationError("format_version", f"at most {FORMAT_VERSION}", repr(version))
        _check_keys(raw, CalibrationTable, "calibration")
        try:
            points = tuple(_point(item, i) for i, item in enumerate(raw["points"]))
            return CalibrationTable(
                model=str(raw["model"]),
                fingerprint=str(raw["fingerprint"]),
                metric=str(raw["metric"]),
                n=int(raw["n"]),
                macs_dense=float(raw["macs_dense"]),
                points=points,
                k_max={str(name): int(value) for name, value in raw["k_max"].items()},
                format_version=version,
            )
        except (TypeError, ValueError, AttributeError) as error:
            if isinstance(error, CalibrationError):
                raise
            raise CalibrationError("calibration", "numbers where numbers belong", str(error)) from None

    @staticmethod
    def load(path: Path) -> CalibrationTable:
        if not path.is_file():
            raise CalibrationError("calibration", "a file", f"no {path.name}")
        return CalibrationTable.from_json(path.read_text(encoding="utf-8"))


_MAPPINGS = ("thresholds", "k_max")


def fingerprint_bytes(*chunks: bytes) -> str:
    """sha256 over the chunks in order, hex."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _between(low: BudgetPoint, high: BudgetPoint, share: float, budget: float) -> BudgetPoint:
    """Linear, except towards OPEN, which is no number to average with: up to there the lower point is served."""
    if any(high.thresholds[name] <= OPEN < value for name, value in low.thresholds.items()):
        return replace(low, budget=budget)

    def mix(a: float, b: float) -> float:
        return a + share * (b - a)

    return BudgetPoint(
        budget=budget,
        thresholds={name: mix(value, high.thresholds[name]) for name, value in low.thresholds.items()},
        activity_mean=mix(low.activity_mean, high.activity_mean),
        activity_p50=mix(low.activity_p50, high.activity_p50),
        activity_p99=mix(low.activity_p99, high.activity_p99),
        macs_mean=mix(low.macs_mean, high.macs_mean),
        macs_p99=mix(low.macs_p99, high.macs_p99),
        quality=mix(low.quality, high.quality),
        k_max={name: max(cap, high.k_max[name]) for name, cap in low.k_max.items() if name in high.k_max},
    )


def _check_keys(raw: Mapping[str, Any], cls: type, where: str) -> None:
    known = set(cls.__dataclass_fields__)  # type: ignore[attr-defined]
    missing, unknown = known - set(raw), set(raw) - known
    if missing or unknown:
        raise CalibrationError(where, f"keys {sorted(known)}", f"missing {sorted(missing)}, unknown {sorted(unknown)}")


def _point(raw: Any, index: int) -> BudgetPoint:
    if not isinstance(raw, dict):
        raise CalibrationError(f"points[{index}]", "a JSON object", type(raw).__name__)
    _check_keys(raw, BudgetPoint, f"points[{index}]")
    thresholds = {str(name): float(value) for name, value in raw["thresholds"].items()}
    numbers = {name: float(raw[name]) for name in BudgetPoint.__dataclass_fields__ if name not in _MAPPINGS}
    k_max = {str(name): int(value) for name, value in raw["k_max"].items()}
    return BudgetPoint(thresholds=thresholds, k_max=k_max, **numbers)
