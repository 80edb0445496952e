"""Magnitude-gated layers packed for the kernels: CATS on a GLU, and input magnitudes (TEAL, R-Sparse)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swan_runtime.errors import InvalidInputError
from swan_runtime.gate import MagnitudeGate
from swan_runtime.input_gate import GatedInputLinear
from swan_runtime.kernels.lowrank import GateMask
from swan_runtime.kernels.magnitude import cats, cats_branch, magnitude_mask, sparse_inputs
from swan_runtime.kernels.magnitude_weights import CatsWeights, InputWeights
from swan_runtime.layers import GatedGLU, GatedLayer, Spend
from swan_runtime.layout import Layout
from swan_runtime.plan import HardPlan, row_sums


@dataclass(frozen=True)
class PackedCats:
    """GatedGLU with a MagnitudeGate: a dense branch, then only the units that it makes large."""

    weights: CatsWeights

    @staticmethod
    def pack(layer: GatedGLU, half: bool = False) -> PackedCats:
        assert isinstance(layer.gate, MagnitudeGate)
        parts = _parameters(layer.branch), _parameters(layer.up), _parameters(layer.down)
        gate, activation = layer.gate.weight, layer.activation
        return PackedCats(CatsWeights.pack(*parts, layer.mean, gate, activation=activation, half=half))

    def run(self, layer: GatedLayer, x: Tensor, plan: HardPlan, layout: Layout) -> Tensor:
        """x [N, in] -> [N, out]."""
        assert isinstance(layer, GatedGLU)
        spend = layer.spend(layout)
        branch = cats_branch(x, self.weights)
        mask, hits = _mask(layer, branch, self.weights.weight, self.weights.activation, plan, spend)
        y, kernel = cats(x, branch, mask.mask, self.weights, threads=plan.threads)
        layer.record(plan, row_sums(mask.counts, spend.rows, len(spend.masks)), hits, spend, kernel)
        return y


@dataclass(frozen=True)
class PackedInputs:
    """GatedInputLinear: the columns of small inputs are not read."""

    weights: InputWeights

    @staticmethod
    def pack(layer: GatedInputLinear, half: bool = False) -> PackedInputs:
        assert isinstance(layer.gate, MagnitudeGate)
        path = (layer.left.detach(), layer.right.detach()) if layer.rank else None
        return PackedInputs(
            InputWeights.pack(_parameters(layer.linear), layer.mean, layer.gate.weight, path, half=half)
        )

    def run(self, layer: GatedLayer, x: Tensor, plan: HardPlan, layout: Layout) -> Tensor:
        """x [N, in] -> [N, out]."""
        assert isinstance(layer, GatedInputLinear)
        spend = layer.spend(layout)
        x = x.contiguous()
        mask, hits = _mask(layer, x, self.weights.weight, "identity", plan, spend)
        y, kernel = sparse_inputs(x, mask.mask, self.weights, threads=plan.threads)
        layer.record(plan, row_sums(mask.counts, spend.rows, len(spend.masks)), hits, spend, kernel)
        return y


def _mask(
    layer: GatedLayer, values: Tensor, weight: Tensor, activation: str, plan: HardPlan, spend: Spend
) -> tuple[GateMask, list[int]]:
    """The mask by |values| (activated in place), and cap hits per row."""
    thresholds, caps = plan.thresholds[layer.name], plan.k_max.get(layer.name)
    if spend.rows is not None:
        thresholds = thresholds[spend.rows]
    try:
        found = magnitude_mask(values, weight, thresholds, activation=activation)
    except InvalidInputError as error:
        raise InvalidInputError(f"{layer.name}.{error.field}", error.expected, error.got) from None
    hits = [0] * len(spend.masks)
    if caps is None:
        return found, hits
    limits = torch.tensor(caps, dtype=torch.int64)
    limits = limits if spend.rows is None else limits[spend.rows]
    over = found.counts > limits
    for i in over.nonzero().flatten().tolist():
        # The rare way, mask by mask: each row of the batch has its own cap.
        keep = magnitude_mask(values[i : i + 1].clone(), weight, thresholds[i : i + 1], int(limits[i]))
        found.mask[i], found.counts[i] = keep.mask[0], keep.counts[0]
    return found, row_sums(over, spend.rows, len(spend.masks)) if bool(over.any()) else hits


def _parameters(linear: nn.Linear) -> tuple[Tensor, Tensor | None]:
    return linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
