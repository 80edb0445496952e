"""Magnitude-gated layers packed for the kernels: CATS on a GLU, and input magnitudes (TEAL, R-Sparse)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swan_runtime.errors import InvalidInputError
from swan_runtime.gate import MagnitudeGate
from swan_runtime.input_gate import GatedInputLinear
from swan_runtime.kernels.lowrank import GateMask
from swan_runtime.kernels.magnitude import (
    MagnitudeResult,
    cats,
    cats_branch,
    cats_gated,
    magnitude_mask,
    sparse_gated,
    sparse_inputs,
)
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
        w, threads = self.weights, plan.threads

        def at_once(choice: Choice) -> MagnitudeResult:
            return cats_gated(x, w, choice.thresholds, k_max=choice.top, threads=threads)

        def mask_by_mask(choice: Choice) -> Capped:
            branch = cats_branch(x, w)
            mask, hits = choice.capped(branch, w.weight, w.activation)
            return *cats(x, branch, mask.mask, w, threads=threads), mask.counts, hits

        return run_magnitude(layer, plan, layout, at_once, mask_by_mask)


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
        w, threads = self.weights, plan.threads

        def at_once(choice: Choice) -> MagnitudeResult:
            return sparse_gated(x, w, choice.thresholds, k_max=choice.top, threads=threads)

        def mask_by_mask(choice: Choice) -> Capped:
            mask, hits = choice.capped(x.contiguous(), w.weight, "identity")
            return *sparse_inputs(x, mask.mask, w, threads=threads), mask.counts, hits

        return run_magnitude(layer, plan, layout, at_once, mask_by_mask)


@dataclass(frozen=True)
class Choice:
    """Thresholds [masks] and caps of one call: limits [masks] or None; top: the cap that the kernel applies."""

    thresholds: Tensor
    limits: Tensor | None
    top: int | None
    rows: Tensor | None
    num_rows: int

    @staticmethod
    def of(layer: GatedLayer, plan: HardPlan, spend: Spend) -> Choice:
        thresholds, caps = plan.thresholds[layer.name], plan.k_max.get(layer.name)
        if spend.rows is not None:
            thresholds = thresholds[spend.rows]
        limits = None if caps is None else torch.tensor(caps, dtype=torch.int64)
        if limits is not None and spend.rows is not None:
            limits = limits[spend.rows]
        return Choice(thresholds, limits, max(caps) if caps else None, spend.rows, len(spend.masks))

    def exceeded(self, result: MagnitudeResult) -> bool:
        """Whether some row went over its own cap: the kernel only knows the largest one."""
        return self.limits is not None and (result.cap_hits > 0 or bool((result.counts > self.limits).any()))

    def capped(self, values: Tensor, weight: Tensor, activation: str) -> tuple[GateMask, list[int]]:
        """The rare way, mask by mask: each row of the batch has its own cap. values: activated in place."""
        assert self.limits is not None
        found = magnitude_mask(values, weight, self.thresholds, activation=activation)
        over = found.counts > self.limits
        for i in over.nonzero().flatten().tolist():
            keep = magnitude_mask(values[i : i + 1].clone(), weight, self.thresholds[i : i + 1], int(self.limits[i]))
            found.mask[i], found.counts[i] = keep.mask[0], keep.counts[0]
        return found, row_sums(over, self.rows, self.num_rows)


Capped = tuple[Tensor, str, Tensor, list[int]]  # output, kernel, active units of each mask, cap hits of each row


def run_magnitude(
    layer: GatedGLU | GatedInputLinear,
    plan: HardPlan,
    layout: Layout,
    at_once: Callable[[Choice], MagnitudeResult],
    mask_by_mask: Callable[[Choice], Capped],
) -> Tensor:
    """The layer's output, recorded: in one call, or mask by mask if some mask went over its own cap."""
    spend = layer.spend(layout)
    choice = Choice.of(layer, plan, spend)
    with naming(layer):
        result = at_once(choice)
        y, kernel, counts, hits = result.y, result.kernel, result.counts, [0] * choice.num_rows
        if choice.exceeded(result):
            y, kernel, counts, hits = mask_by_mask(choice)
    layer.record(plan, row_sums(counts, choice.rows, choice.num_rows), hits, spend, kernel)
    return y


@contextmanager
def naming(layer: GatedLayer) -> Iterator[None]:
    """Put the layer's name before the field of an error."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(f"{layer.name}.{error.field}", error.expected, error.got) from None


def _parameters(linear: nn.Linear) -> tuple[Tensor, Tensor | None]:
    return linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
