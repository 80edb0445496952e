"""A linear layer that skips small *inputs*: TEAL's magnitude threshold, with R-Sparse's low-rank path as an option."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from swan_runtime.gate import InputMagnitudeGate
from swan_runtime.layers import GatedLayer, Spend
from swan_runtime.layout import Layout
from swan_runtime.plan import HardPlan, Plan


class GatedInputLinear(GatedLayer):
    """y = W (x where it is large, the mean elsewhere) + left right (x - mean where it is small) + b.

    Units are the inputs; no training is needed. rank 0: no low-rank path (TEAL). rank r: the truncated SVD of W serves
    the dropped inputs (R-Sparse) for r (in + out) MACs more, reported as the gate's.
    """

    def __init__(self, linear: nn.Linear, rank: int = 0) -> None:
        super().__init__(
            linear.in_features,
            InputMagnitudeGate(linear.in_features, rank * (linear.in_features + linear.out_features)),
        )
        self.linear = linear
        self.rank = rank
        left, values, right = torch.linalg.svd(linear.weight.detach(), full_matrices=False)
        self.left = nn.Parameter(left[:, :rank] * values[:rank])
        self.right = nn.Parameter(right[:rank])

    @property
    def unit_macs(self) -> int:
        return self.linear.out_features

    def unit_values(self, x: Tensor) -> Tensor:
        return x

    def spend(self, layout: Layout) -> Spend:
        """One mask per position."""
        count = layout.lengths
        return Spend(layout.rows, count, [1] * len(count), count, self.unit_macs)

    def forward(self, x: Tensor, plan: Plan | None = None, lengths: Sequence[int] | None = None) -> Tensor:
        """x: [B, in], [B, ..., in], or with `lengths` as for GatedMLP."""
        if plan is None:
            dense: Tensor = self.linear(x)
            return dense
        flat, layout = Layout.flatten(x, lengths)
        packed = self.packed_for(plan)
        if packed is not None and isinstance(plan, HardPlan):
            return layout.restore(packed.run(self, flat, plan, layout))
        kept = self.blend(flat, self.open_gates(plan, self.gate.scores(flat), self.spend(layout)))
        y: Tensor = self.linear(kept)
        if self.rank:
            y = y + (flat - kept) @ self.right.T @ self.left.T
        return layout.restore(y)
