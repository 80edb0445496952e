"""What one forward pass of a gated model shall do, and what it did: passed explicitly, never global, one per call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from swan_runtime.budget import OPEN
from swan_runtime.errors import InvalidInputError

MAX_QUANTILE = 1 << 16
"""Scores that a training threshold is taken from: the quantile's standard error is then under 0.002."""


class LayerInfo(NamedTuple):
    """What a plan must know of the layer that asks.

    unit_macs: MACs that one active unit costs per mask; scale: typical spread of the scores (divides the temperature).
    """

    name: str
    num_units: int
    unit_macs: int
    scale: float | Tensor = 1.0


@dataclass(slots=True)
class SoftTrace:
    """One layer in one training pass. scores, gates: [masks, units]; gates carry gradients."""

    scores: Tensor
    gates: Tensor
    unit_macs: int

    @property
    def density(self) -> Tensor:
        """Mean gate value, a scalar with gradient."""
        return self.gates.mean()


@dataclass(slots=True)
class SoftPlan:
    """Training: gate = sigmoid((score - threshold) / (temperature * scale)), with gradients.

    budget: share of units that shall run in this pass: one number, or [masks], one for each mask.
    thresholds: layer name -> threshold; None = per layer the quantile of this batch's scores that lets `budget` pass.
    straight_through: forward value is the hard gate, gradient that of the soft one.
    densities: layer name -> share of units of that layer, where it differs from `budget` (quantile thresholds only).
    """

    budget: float | Tensor
    temperature: float = 1.0
    straight_through: bool = False
    thresholds: Mapping[str, float] | None = None
    densities: Mapping[str, float] = field(default_factory=dict)
    traces: dict[str, SoftTrace] = field(default_factory=dict)

    def gates(self, layer: LayerInfo, scores: Tensor) -> Tensor:
        """scores [masks, units] -> gate values in [0, 1], same shape."""
        _check_name(layer)
        threshold: float | Tensor
        if self.thresholds is None:
            threshold = self._batch_threshold(scores.detach(), self.densities.get(layer.name, self.budget))
        else:
            threshold = self.thresholds[layer.name]
        gates = torch.sigmoid((scores - threshold) / (self.temperature * layer.scale))
        if self.straight_through:
            hard = (scores > threshold).to(gates.dtype)
            gates = (hard - gates).detach() + gates
        self.traces[layer.name] = SoftTrace(scores, gates, layer.unit_macs)
        return gates

    @staticmethod
    def _batch_threshold(scores: Tensor, budget: float | Tensor) -> Tensor:
        """Scalar, or [masks, 1]. Masks of one budget are a population of their own: scores move with the budget."""
        if not isinstance(budget, Tensor):
            # A stride over masks, not over units: every unit stays represented.
            return quantile_threshold(scores[:: 1 + scores.numel() // MAX_QUANTILE], budget)
        limits = scores.new_empty(len(scores), 1)
        for value in sorted(set(budget.tolist())):
            same = budget == value
            limits[same] = quantile_threshold(scores[same], value)
        return limits


@dataclass(slots=True)
class HardTrace:
    """One layer in one inference pass; all lists have one entry per row of the batch (tokens summed)."""

    active: list[int]
    total: list[int]
    cap_hits: list[int]
    macs_active: list[int]
    macs_gate: list[int]
    macs_dense: list[int]
    kernel: str


@dataclass(slots=True)
class HardPlan:
    """Inference: a unit runs iff score > threshold of its row, at most k_max units of one mask.

    thresholds: layer name -> [rows] float32. k_max: layer name -> one cap per row (absent = no cap).
    reference: use the mask-multiply path even where packed weights exist.
    fit: layer name -> density; a layer named here sets its own threshold to that quantile of the scores it sees
    (calibration: later layers then see what earlier thresholds did to their input).
    observer: called by the reference path with a layer's name and its mask [masks, units].
    threads: limit for the kernels.
    """

    thresholds: dict[str, Tensor]
    k_max: Mapping[str, Sequence[int]] = field(default_factory=dict)
    reference: bool = False
    fit: Mapping[str, float] = field(default_factory=dict)
    traces: dict[str, HardTrace] = field(default_factory=dict)
    observer: Callable[[str, Tensor], None] | None = None
    threads: int = 1

    @staticmethod
    def uniform(thresholds: Mapping[str, float], rows: int, reference: bool = False) -> HardPlan:
        """The same thresholds for every row."""
        return HardPlan({name: torch.full((rows,), value) for name, value in thresholds.items()}, reference=reference)

    def mask(self, layer: LayerInfo, scores: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """scores [masks, units] -> (mask [masks, units] bool, True = active; cap hits [masks] bool)."""
        _check_name(layer)
        if not all_finite(scores):
            raise InvalidInputError(f"{layer.name}.scores", "finite values", "NaN or infinity")
        if layer.name in self.fit:
            value = quantile_threshold(scores, self.fit[layer.name])
            self.thresholds[layer.name] = value.cpu().expand(int(rows.max()) + 1 if rows is not None else len(scores))
        threshold = self.thresholds[layer.name].to(scores)
        caps = torch.tensor(self.k_max[layer.name], device=scores.device) if layer.name in self.k_max else None
        if rows is not None:
            threshold = threshold[rows]
            caps = None if caps is None else caps[rows]
        mask = scores > threshold[:, None]
        hits = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        if caps is not None:
            mask, hits = apply_caps(scores, mask, caps)
        if self.observer is not None:
            self.observer(layer.name, mask)
        return mask, hits


Plan = SoftPlan | HardPlan


def quantile_threshold(scores: Tensor, density: float) -> Tensor:
    """The threshold that lets about `density` of all `scores` through; scalar tensor."""
    flat = scores.reshape(-1)
    drop = round((1.0 - density) * flat.numel())
    if drop <= 0:
        return torch.tensor(OPEN, dtype=scores.dtype, device=scores.device)
    return flat.kthvalue(min(drop, flat.numel())).values


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite. One reduction in the usual case: both survive a sum."""
    return math.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())


def apply_caps(scores: Tensor, mask: Tensor, caps: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the `caps[i]` best-scored units of every mask that has more. Returns (mask, hits [masks] bool)."""
    hits = mask.sum(1) > caps
    for i in hits.nonzero().flatten().tolist():
        keep = scores[i].topk(int(caps[i])).indices
        mask[i] = False
        mask[i, keep] = True
    return mask, hits


def row_sums(values: Tensor, rows: Tensor | None, num_rows: int) -> list[int]:
    """Sum `values` [masks] over the masks of each batch row; rows None = mask i belongs to row i."""
    if rows is None:
        return values.to(torch.int64).tolist()
    sums = torch.zeros(num_rows, dtype=torch.int64, device=values.device)
    return sums.index_add_(0, rows, values.to(torch.int64)).tolist()


def total_density(traces: Mapping[str, SoftTrace] | Sequence[SoftTrace]) -> Tensor:
    """MAC-weighted share of the gated compute that ran, in [0, 1], with gradient."""
    items = list(traces.values()) if isinstance(traces, Mapping) else list(traces)
    dense = sum(trace.gates.numel() * trace.unit_macs for trace in items)
    active = torch.stack([trace.gates.sum() * trace.unit_macs for trace in items]).sum()
    return active / dense


def _check_name(layer: LayerInfo) -> None:
    if not layer.name:
        raise InvalidInputError("layer.name", "a name (call name_layers_(model) once after building it)", "''")
