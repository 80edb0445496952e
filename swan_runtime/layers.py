"""Gated layers: gate -> active units -> op. An off unit contributes its calibrated mean instead of its value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from swan_runtime.activations import ELEMENTWISE
from swan_runtime.gate import Gate, LowRankGate, MagnitudeGate
from swan_runtime.layout import Layout
from swan_runtime.packable import Packable
from swan_runtime.plan import HardPlan, HardTrace, LayerInfo, Plan, SoftPlan, row_sums


class Spend(NamedTuple):
    """How masks turn into MACs. rows: [masks] batch row of each mask (None: mask i is row i); the lists are per row.

    masks: masks of the row; share: positions that use one mask; scored: gate evaluations; unit_macs, fixed_macs: per
    position, of one active unit and of what this layer always computes.
    """

    rows: Tensor | None
    masks: list[int]
    share: list[int]
    scored: list[int]
    unit_macs: int
    fixed_macs: int = 0


class PackedLayer(Protocol):
    """Weights of one layer packed for the kernels; `run` must write the layer's HardTrace into the plan."""

    def run(self, layer: GatedLayer, x: Tensor, plan: HardPlan, layout: Layout) -> Tensor: ...


class GatedLayer(Packable[PackedLayer], ABC):
    """Base: units, their gate, and what an off unit contributes.

    name: path in the model, the key in plans and tables (name_layers_ sets it).
    mean: [units] buffer, the value of an off unit; zeros until calibrated.
    """

    mean: Tensor

    def __init__(self, num_units: int, gate: Gate) -> None:
        super().__init__()
        self.name = ""
        self.num_units = num_units
        self.gate = gate
        self.register_buffer("mean", torch.zeros(num_units))

    @property
    @abstractmethod
    def unit_macs(self) -> int:
        """MACs of one active unit at one position."""

    @abstractmethod
    def unit_values(self, x: Tensor) -> Tensor:
        """Every unit's value, [..., units] (channels last but one for images): what `mean` is the mean of."""

    def blend(self, hidden: Tensor, gates: Tensor) -> Tensor:
        """hidden, gates: [..., units] -> the value where the gate is 1, the mean where it is 0."""
        return torch.addcmul(self.mean, gates, hidden - self.mean)

    def packed_for(self, plan: Plan | None) -> PackedLayer | None:
        """The packed weights if `plan` runs on them."""
        if not isinstance(plan, HardPlan) or plan.reference or plan.fit or plan.observer is not None:
            return None
        return self.packed

    def open_gates(self, plan: Plan, scores: Tensor, spend: Spend) -> Tensor:
        """scores [masks, units] -> gate values of the same shape: soft, or 0/1 with the counts written to the plan."""
        info = LayerInfo(self.name, self.num_units, spend.unit_macs, self.gate.scale)
        if isinstance(plan, SoftPlan):
            return plan.gates(info, scores)
        mask, hits = plan.mask(info, scores, spend.rows)
        num_rows = len(spend.masks)
        self.record(
            plan, row_sums(mask.sum(1), spend.rows, num_rows), row_sums(hits, spend.rows, num_rows), spend, "reference"
        )
        return mask.to(scores.dtype)

    def record(self, plan: HardPlan, active: list[int], hits: list[int], spend: Spend, kernel: str) -> None:
        """Write what ran: active units and cap hits per row, summed over the row's masks."""
        units, unit, fixed, gate = self.num_units, spend.unit_macs, spend.fixed_macs, self.gate.macs
        plan.traces[self.name] = HardTrace(
            active=active,
            total=[m * units for m in spend.masks],
            cap_hits=hits,
            macs_active=[s * (a * unit + m * fixed) for a, m, s in zip(active, spend.masks, spend.share, strict=True)],
            macs_gate=[n * gate for n in spend.scored],
            macs_dense=[m * s * (units * unit + fixed) for m, s in zip(spend.masks, spend.share, strict=True)],
            kernel=kernel,
        )


class GatedMLP(GatedLayer):
    """down(gated act(up(x))): the gate skips rows of `up` and columns of `down`. x: [B, in] -> [B, out].

    gate: any gate that reads x; default a LowRankGate. activation: relu, gelu, silu.
    """

    def __init__(
        self,
        in_features: int,
        num_units: int,
        out_features: int,
        rank: int = 16,
        activation: str = "relu",
        gate: Gate | None = None,
    ) -> None:
        super().__init__(num_units, gate or LowRankGate(in_features, num_units, rank, activation=activation))
        self.activation = activation
        self.granularity = "token"
        self.up = nn.Linear(in_features, num_units)
        self.down = nn.Linear(num_units, out_features)

    @property
    def unit_macs(self) -> int:
        return self.up.in_features + self.down.out_features

    @property
    def fixed_macs(self) -> int:
        """MACs per position that no gate governs."""
        return 0

    def unit_values(self, x: Tensor) -> Tensor:
        return ELEMENTWISE[self.activation](self.up(x))

    def scores(self, x: Tensor, hidden: Tensor, layout: Layout) -> Tensor:
        """x [N, in], hidden [N, units] -> [masks, units]."""
        return self.gate.scores(x)

    def spend(self, layout: Layout) -> Spend:
        """One mask per position, or one per row for request granularity."""
        lengths = layout.lengths
        if self.granularity == "token":
            return Spend(layout.rows, lengths, [1] * len(lengths), lengths, self.unit_macs, self.fixed_macs)
        return Spend(None, [1] * len(lengths), lengths, lengths, self.unit_macs, self.fixed_macs)

    def forward(self, x: Tensor, plan: Plan | None = None, lengths: Sequence[int] | None = None) -> Tensor:
        """plan None: every unit runs, nothing is gated or counted. lengths: see Layout.flatten."""
        if plan is None:
            out: Tensor = self.down(self.unit_values(x))
            return out
        flat, layout = Layout.flatten(x, lengths)
        packed = self.packed_for(plan)
        if packed is not None and isinstance(plan, HardPlan):
            return layout.restore(packed.run(self, flat, plan, layout))
        hidden = self.unit_values(flat)
        gates = self.open_gates(plan, self.scores(flat, hidden, layout), self.spend(layout))
        if self.granularity == "request" and layout.rows is not None:
            gates = gates.index_select(0, layout.rows)  # whose backward adds rows up many times faster than indexing's
        down: Tensor = self.down(self.blend(hidden, gates))
        return layout.restore(down)


class GatedFFN(GatedMLP):
    """Transformer feed-forward block. x: [B, T, in], padded with `lengths`, or [N, in] ragged with `lengths`.

    granularity "token": one mask per token; "request": one mask per row, from the row's mean token score (root mean
    square for deviation scores), or from the gate of the mean token with pool="input" (a gate evaluation per row).
    """

    def __init__(
        self, width: int, num_units: int, rank: int = 16, activation: str = "gelu", granularity: str = "token",
        pool: str = "scores",
    ) -> None:  # fmt: skip
        super().__init__(width, num_units, width, rank, activation)
        self.granularity = granularity
        self.pool = pool

    def scores(self, x: Tensor, hidden: Tensor, layout: Layout) -> Tensor:
        if self.granularity == "token":
            return self.gate.scores(x)
        if self.pool == "input":
            return self.gate.scores(layout.mean(x))
        return self.pool_scores(self.gate.scores(x), layout)

    def pool_scores(self, scores: Tensor, layout: Layout) -> Tensor:
        """Token scores [N, units] -> one per row [B, units]."""
        return layout.mean(scores, square=getattr(self.gate, "score", "") == "deviation")

    def spend(self, layout: Layout) -> Spend:
        spend = super().spend(layout)
        if self.granularity == "request" and self.pool == "input":
            return spend._replace(scored=spend.masks)
        return spend


class GatedGLU(GatedMLP):
    """down(act(branch(x)) * up(x)), SwiGLU with act = silu; no biases. A mask per token.

    With a MagnitudeGate (CATS) the branch is computed densely, its magnitude is the score and only `up` and `down` are
    skipped; with a LowRankGate all three are.
    """

    def __init__(
        self, width: int, num_units: int, out_features: int | None = None, gate: Gate | None = None,
        activation: str = "silu", rank: int = 16,
    ) -> None:  # fmt: skip
        super().__init__(width, num_units, out_features or width, rank, activation, gate)
        self.branch = nn.Linear(width, num_units, bias=False)
        self.up = nn.Linear(width, num_units, bias=False)
        self.down = nn.Linear(num_units, out_features or width, bias=False)

    @property
    def branch_is_dense(self) -> bool:
        return isinstance(self.gate, MagnitudeGate)

    @property
    def unit_macs(self) -> int:
        return super().unit_macs + (0 if self.branch_is_dense else self.branch.in_features)

    @property
    def fixed_macs(self) -> int:
        return self.branch.weight.numel() if self.branch_is_dense else 0

    def unit_values(self, x: Tensor) -> Tensor:
        values: Tensor = ELEMENTWISE[self.activation](self.branch(x)) * self.up(x)
        return values

    def scores(self, x: Tensor, hidden: Tensor, layout: Layout) -> Tensor:
        read: Tensor = ELEMENTWISE[self.activation](self.branch(x)) if self.branch_is_dense else x
        return self.gate.scores(read)


def gated_layers(model: nn.Module) -> dict[str, GatedLayer]:
    """name -> layer, in module order; the names are those that name_layers_ gives."""
    return {path: module for path, module in model.named_modules() if isinstance(module, GatedLayer)}


def name_layers_(model: nn.Module) -> nn.Module:
    """Give every gated layer its path as its name; call once when the model is built."""
    for path, layer in gated_layers(model).items():
        layer.name = path or "layer"
    return model
