"""Held-out data -> CalibrationTable: thresholds per budget, found end to end, with what each budget costs and gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swan_runtime.budget import OPEN, BudgetPoint, CalibrationTable
from swan_runtime.checkpoint import fingerprint
from swan_runtime.errors import CalibrationError
from swan_runtime.layers import gated_layers
from swan_runtime.macs import build_reports, fixed_macs
from swan_runtime.plan import HardPlan
from swan_runtime.report import ComputeReport

Inputs = tuple[Any, ...]
Metric = Callable[[Tensor], float]
DEFAULT_BUDGETS = (0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.55, 0.75, 0.97, 1.0)


@dataclass(frozen=True)
class CalibrationConfig:
    """model, metric: names written to the table. budgets: served budgets; 1.0 (all gates open) is always added.

    densities: budget -> share of units per layer, None = the same in every layer.
    shared_threshold: one threshold for all layers per budget, for gates trained with a shared one (densities unused).
    cap_quantile: k_max is this quantile of the active units per mask. fit_rounds: end-to-end corrections per budget.
    hull_tolerance: points this far under the concave hull of quality over MACs are not served.
    """

    model: str
    metric: str
    budgets: tuple[float, ...] = DEFAULT_BUDGETS
    densities: Callable[[float], Mapping[str, float]] | None = None
    shared_threshold: bool = False
    cap_quantile: float = 0.999
    fit_rounds: int = 3
    hull_tolerance: float = 0.002


@dataclass(frozen=True)
class Measurement:
    """One pass over the data. outputs: [n, ...]; counts: layer -> active units of every mask."""

    outputs: Tensor
    reports: tuple[ComputeReport, ...]
    counts: Mapping[str, Tensor]

    @property
    def activity(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array([report.activity for report in self.reports])

    @property
    def macs(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array([report.macs for report in self.reports], dtype=np.float64)


@torch.no_grad()
def measure(model: nn.Module, batches: Sequence[Inputs], thresholds: Mapping[str, float]) -> Measurement:
    """Run the reference path at fixed thresholds over `batches` (tuples of the model's positional inputs)."""
    outputs: list[Tensor] = []
    reports: list[ComputeReport] = []
    counts: dict[str, list[Tensor]] = {name: [] for name in thresholds}
    for inputs in batches:
        plan = HardPlan.uniform(thresholds, len(inputs[0]), reference=True)
        plan.observer = lambda name, mask: counts[name].append(mask.sum(1))
        with evaluating(model):
            outputs.append(model(*inputs, plan=plan))
            fixed = fixed_macs(model, inputs)
        reports.extend(build_reports(plan.traces, [1.0] * len(fixed), fixed))
    return Measurement(torch.cat(outputs), tuple(reports), {name: torch.cat(v) for name, v in counts.items()})


@torch.no_grad()
def fit_thresholds(
    model: nn.Module, batches: Sequence[Inputs], budget: float, config: CalibrationConfig
) -> dict[str, float]:
    """Thresholds at which the mean activity over `batches` is `budget`.

    Each pass sets a layer's threshold by the quantile of the scores that it sees behind the earlier layers' thresholds;
    the densities are then scaled by what the whole network showed, `fit_rounds` times.
    """
    names = list(gated_layers(model))
    if budget >= 1.0:
        return dict.fromkeys(names, OPEN)
    if config.shared_threshold:
        return _fit_shared(model, batches, budget, names)
    wanted = dict(config.densities(budget)) if config.densities else dict.fromkeys(names, budget)
    thresholds: dict[str, float] = {}
    for _ in range(config.fit_rounds):
        found: dict[str, list[float]] = {name: [] for name in names}
        for inputs in batches:
            plan = HardPlan({}, reference=True, fit=wanted)
            with evaluating(model):
                model(*inputs, plan=plan)
            for name in names:
                found[name].append(float(plan.thresholds[name][0]))
        thresholds = {name: OPEN if min(v) <= OPEN else float(np.mean(v)) for name, v in found.items()}
        error = budget / max(float(measure(model, batches, thresholds).activity.mean()), 1e-6)
        if abs(error - 1.0) < 0.005:
            break
        wanted = {name: min(1.0, density * error) for name, density in wanted.items()}
    return thresholds


def _fit_shared(model: nn.Module, batches: Sequence[Inputs], budget: float, names: list[str]) -> dict[str, float]:
    low, high = -50.0, 50.0
    for _ in range(24):
        middle = 0.5 * (low + high)
        activity = float(measure(model, batches, dict.fromkeys(names, middle)).activity.mean())
        low, high = (middle, high) if activity > budget else (low, middle)
        if high - low < 1e-4 or abs(activity - budget) < 5e-4:
            break
    return dict.fromkeys(names, 0.5 * (low + high))


def calibrate(
    model: nn.Module,
    batches: Sequence[Inputs],
    metric: Metric,
    config: CalibrationConfig,
    fit_batches: Sequence[Inputs] | None = None,
) -> CalibrationTable:
    """Measure every budget and keep what may be served: monotone, on the upper concave hull of quality over MACs.

    batches: held-out inputs, tuples of positional arguments, each of some hundred rows; metric: outputs [n, ...] in
    the order of the batches -> quality; fit_batches: where thresholds are fitted (default: the same batches).
    Raises CalibrationError for a model without gated layers or without data.
    """
    layers = gated_layers(model)
    if not layers:
        raise CalibrationError("model", "at least one gated layer", "none")
    if not batches or sum(len(inputs[0]) for inputs in batches) == 0:
        raise CalibrationError("batches", "at least one row", "none")
    points: list[BudgetPoint] = []
    n, macs_dense = 0, 0.0
    for budget in sorted({*config.budgets, 1.0}):
        thresholds = fit_thresholds(model, fit_batches or batches, budget, config)
        seen = measure(model, batches, thresholds)
        n, macs_dense = len(seen.reports), float(np.mean([report.macs_dense for report in seen.reports]))
        caps = {
            name: max(1, int(torch.quantile(v.double(), config.cap_quantile, interpolation="higher")))
            for name, v in seen.counts.items()
        }
        points.append(_point(budget, thresholds, seen, metric(seen.outputs), caps))
    return CalibrationTable(
        model=config.model,
        fingerprint=fingerprint(model),
        metric=config.metric,
        n=n,
        macs_dense=macs_dense,
        points=serve_points(points, config.hull_tolerance),
    )


def _point(
    budget: float, thresholds: Mapping[str, float], seen: Measurement, quality: float, k_max: Mapping[str, int]
) -> BudgetPoint:
    activity, macs = seen.activity, seen.macs
    return BudgetPoint(
        budget=budget,
        thresholds=dict(thresholds),
        activity_mean=float(activity.mean()),
        activity_p50=float(np.quantile(activity, 0.5)),
        activity_p99=float(np.quantile(activity, 0.99)),
        macs_mean=float(macs.mean()),
        macs_p99=float(np.quantile(macs, 0.99)),
        quality=float(quality),
        k_max=dict(k_max),
    )


def serve_points(points: Sequence[BudgetPoint], tolerance: float = 0.0) -> tuple[BudgetPoint, ...]:
    """The points worth serving, ascending: quality never above that of a larger budget, none under the hull.

    A smaller budget that scored better by luck is credited only with what every larger budget reached too.
    """
    ceiling = float("inf")
    kept: list[BudgetPoint] = []
    for point in sorted(points, key=lambda p: p.budget, reverse=True):
        if kept and (point.macs_mean > kept[-1].macs_mean or point.activity_mean > kept[-1].activity_mean):
            continue
        ceiling = min(ceiling, point.quality)
        kept.append(replace(point, quality=ceiling))
    kept.reverse()
    hull = _upper_hull(kept)
    cost, quality = [p.macs_mean for p in hull], [p.quality for p in hull]
    return tuple(p for p in kept if p.quality >= np.interp(p.macs_mean, cost, quality) - tolerance)


def _upper_hull(points: Sequence[BudgetPoint]) -> list[BudgetPoint]:
    hull: list[BudgetPoint] = []
    for point in points:
        while len(hull) >= 2 and _under(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _under(left: BudgetPoint, middle: BudgetPoint, right: BudgetPoint) -> bool:
    run, rise = right.macs_mean - left.macs_mean, right.quality - left.quality
    return (middle.quality - left.quality) * run < rise * (middle.macs_mean - left.macs_mean)


@torch.no_grad()
def set_means_(model: nn.Module, batches: Sequence[Inputs]) -> nn.Module:
    """Set every gated layer's `mean` to its units' mean value over `batches`, all gates open."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    handles = []
    for name, layer in gated_layers(model).items():
        handles.append(layer.register_forward_pre_hook(_summing(name, sums, counts)))
    try:
        with evaluating(model):
            for inputs in batches:
                model(*inputs, plan=None)
    finally:
        for handle in handles:
            handle.remove()
    for name, layer in gated_layers(model).items():
        layer.mean.copy_(sums[name] / counts[name])
    return model


def _summing(name: str, sums: dict[str, Tensor], counts: dict[str, int]) -> Callable[..., None]:
    def hook(layer: Any, args: tuple[Any, ...]) -> None:
        values = layer.unit_values(args[0])
        axis = 1 if values.dim() == 4 else values.dim() - 1
        flat = values.transpose(axis, -1).reshape(-1, layer.num_units)
        sums[name] = sums.get(name, torch.zeros_like(layer.mean)) + flat.sum(0)
        counts[name] = counts.get(name, 0) + len(flat)

    return hook


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """model.eval() inside, the previous mode after."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
