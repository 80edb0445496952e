"""Layers packed for the kernels: gate, mask and op on frozen weights, with the counts written to the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from swan_runtime.errors import InvalidInputError
from swan_runtime.gate import LowRankGate
from swan_runtime.kernels import ops
from swan_runtime.kernels.lowrank import lowrank_scores
from swan_runtime.kernels.weights import Deviation, GateWeights, GluWeights, MlpWeights
from swan_runtime.layers import GatedFFN, GatedGLU, GatedLayer, GatedMLP, Spend
from swan_runtime.layout import Layout
from swan_runtime.plan import HardPlan, all_finite, apply_caps, row_sums


@dataclass(frozen=True)
class PackedMLP:
    """GatedMLP, GatedFFN and GatedGLU with a low-rank gate."""

    gate: GateWeights
    weights: MlpWeights | GluWeights

    @staticmethod
    def pack(layer: GatedMLP, half: bool = False) -> PackedMLP | None:
        """None where the kernels do not serve the layer's gate: the reference path then runs it. half: bfloat16."""
        if not isinstance(layer.gate, LowRankGate):
            return None
        down = (layer.down.weight.detach(), detached(layer.down.bias))
        up = (layer.up.weight.detach(), detached(layer.up.bias))
        weights: MlpWeights | GluWeights
        if isinstance(layer, GatedGLU):
            branch = (layer.branch.weight.detach(), detached(layer.branch.bias))
            weights = GluWeights.pack(branch, up, down, layer.mean, activation=layer.activation, half=half)
        else:
            weights = MlpWeights.pack(*up, *down, layer.mean, activation=layer.activation, half=half)
        return PackedMLP(pack_gate(layer.gate), weights)

    def run(self, layer: GatedLayer, x: Tensor, plan: HardPlan, layout: Layout) -> Tensor:
        """x [N, in] -> [N, out]."""
        assert isinstance(layer, GatedMLP)
        spend = layer.spend(layout)
        if isinstance(layer, GatedFFN) and layer.granularity == "request" and not layout.single:
            return self._run_shared(layer, x, plan, layout, spend)
        thresholds, caps = plan.thresholds[layer.name], plan.k_max.get(layer.name)
        if spend.rows is not None:
            thresholds = thresholds[spend.rows]
        # One cap serves the kernel: the largest of the batch. A row over its own, smaller cap is done again below.
        top = max(caps) if caps else None
        try:
            result = ops.gated(x, self.gate, thresholds, self.weights, k_max=top, threads=plan.threads)
        except InvalidInputError as error:
            raise InvalidInputError(f"{layer.name}.{error.field}", error.expected, error.got) from None
        if caps and (result.cap_hits or (min(caps) < max(caps) and _exceeds(result.counts, caps, spend.rows))):
            return self._run_capped(layer, x, plan, spend)
        active = row_sums(result.counts, spend.rows, len(spend.masks))
        layer.record(plan, active, [0] * len(active), spend, result.kernel)
        return result.y

    def _run_capped(self, layer: GatedMLP, x: Tensor, plan: HardPlan, spend: Spend) -> Tensor:
        """The rare way: scores first, so that it is known which row hit its cap."""
        mask = masked(layer, lowrank_scores(x, self.gate), plan, spend)
        op = ops.glu if isinstance(self.weights, GluWeights) else ops.mlp
        result = op(x, mask.bits, self.weights, threads=plan.threads)  # type: ignore[arg-type]  # op fits the weights
        layer.record(plan, mask.active, mask.hits, spend, result.kernel)
        return result.y

    def _run_shared(self, layer: GatedFFN, x: Tensor, plan: HardPlan, layout: Layout, spend: Spend) -> Tensor:
        offsets = torch.tensor([0, *accumulate(layout.lengths)])
        if layer.pool == "input":
            thresholds, units = plan.thresholds[layer.name], layer.num_units
            caps = torch.tensor(plan.k_max.get(layer.name, [units] * len(thresholds)), dtype=torch.int64)
            try:
                found = ops.gated_shared(x, self.gate, thresholds, caps, self.weights, offsets, threads=plan.threads)
            except InvalidInputError as error:
                raise InvalidInputError(f"{layer.name}.{error.field}", error.expected, error.got) from None
            layer.record(plan, found.counts.tolist(), found.hits.tolist(), spend, found.kernel)
            return found.y
        mask = masked(layer, layer.pool_scores(lowrank_scores(x, self.gate), layout), plan, spend)
        active = sum(mask.active)
        result = ops.mlp_shared(x, mask.bits, self.weights, offsets=offsets, threads=plan.threads, active=active)
        layer.record(plan, mask.active, mask.hits, spend, result.kernel)
        return result.y


@dataclass(frozen=True, slots=True)
class Mask:
    bits: Tensor
    active: list[int]
    hits: list[int]


def masked(layer: GatedLayer, scores: Tensor, plan: HardPlan, spend: Spend) -> Mask:
    """scores [masks, units] -> the mask with its caps applied and counted per row. Refuses non-finite scores."""
    if not all_finite(scores):
        raise InvalidInputError(f"{layer.name}.scores", "finite values", "NaN or infinity")
    threshold, caps = plan.thresholds[layer.name], plan.k_max.get(layer.name)
    if spend.rows is not None:
        threshold = threshold[spend.rows]
    bits = scores > threshold[:, None]
    counts = bits.sum(1)
    num_rows = len(spend.masks)
    hits = [0] * num_rows
    if caps is not None and _exceeds(counts, caps, spend.rows):
        limits = torch.tensor(caps, dtype=torch.int64)
        bits, over = apply_caps(scores, bits, limits if spend.rows is None else limits[spend.rows])
        counts, hits = bits.sum(1), row_sums(over, spend.rows, num_rows)
    return Mask(bits, row_sums(counts, spend.rows, num_rows), hits)


def _exceeds(counts: Tensor, caps: Sequence[int], rows: Tensor | None) -> bool:
    """Whether a mask has more active units than its row's cap. counts [masks], caps one per row."""
    limits = torch.tensor(caps, dtype=torch.int64)
    return bool((counts > (limits if rows is None else limits[rows])).any())


def pack_gate(gate: LowRankGate) -> GateWeights:
    deviation = Deviation.pack(gate.activation, gate.center, gate.norm) if gate.score == "deviation" else None
    return GateWeights.pack(gate.project.detach().t(), gate.expand.detach(), gate.bias.detach(), deviation)


def fold_norm(weight: Tensor, bias: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """(weight, bias) of a linear or convolution with the eval-mode BatchNorm behind it folded in."""
    weight = weight.detach()
    start = torch.zeros(len(weight)) if bias is None else bias.detach()
    if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
        return weight.clone(), start.clone()
    if norm.running_mean is None or norm.running_var is None:
        raise InvalidInputError("norm", "running statistics", "none")
    gain = torch.rsqrt(norm.running_var + norm.eps)
    gain = gain if norm.weight is None else gain * norm.weight.detach()
    shift = torch.zeros(()) if norm.bias is None else norm.bias.detach()
    return weight * gain.reshape(-1, *([1] * (weight.dim() - 1))), (start - norm.running_mean) * gain + shift


def detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()
