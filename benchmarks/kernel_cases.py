"""What `swan bench kernels` measures. Masks are random and real: the gate runs on random rows inside the timed call,
and each row's threshold is the quantile of that row's own scores that gives the wanted density."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from swan_runtime.kernels import (
    ConvWeights,
    GateWeights,
    MlpWeights,
    conv,
    gated,
    lowrank_mask,
    mlp_shared,
    reference,
    threshold_mask,
)
from swan_runtime.kernels.channel_gate import Bottleneck, ChannelGateWeights, channel_scores
from swan_runtime.kernels.channel_mask import native_channel_mask
from swan_runtime.kernels.native import library

RANK = 16
# C = K = O channels, map size, batch: the packaged Fashion-MNIST ResNet's stages, then ImageNet-sized ones.
CONVS = ((16, 28), (32, 14), (64, 7), (64, 28), (64, 56), (128, 28))
QUICK_CONVS = ((16, 28), (64, 7), (64, 28))


@dataclass(frozen=True)
class Case:
    """ours: gate, mask and op, returns the kernel's name. dense: function and inputs of the ungated block.

    rows: rows of the batch, or samples of a convolution. macs_dense: of the block; gate_share: the gate's MACs over it.
    """

    shape: str
    mask: str
    rows: int
    density: float
    active_share: float
    macs_dense: int
    gate_share: float
    weight_bytes: int
    ours: Callable[[], str]
    control: Callable[[], Tensor]
    dense: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]


def dense_mlp(x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor) -> Tensor:
    """The block as anybody would write it."""
    return F.linear(torch.relu(F.linear(x, up, up_bias)), down, down_bias)


def dense_conv(x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor) -> Tensor:
    """Two 3x3 convolutions with a ReLU between."""
    return F.conv2d(torch.relu(F.conv2d(x, up, up_bias, padding=1)), down, down_bias, padding=1)


def draw(*sizes: int) -> Tensor:
    scale = torch.tensor(sizes[1:]).prod().item() ** -0.5 if len(sizes) > 1 else 0.1
    return torch.randn(*sizes) * scale


def thresholds_for(scores: Tensor, density: float) -> Tensor:
    """One a row: halfway between the last active and the first inactive score; -inf at density 1 (budget 1)."""
    if density >= 1.0:
        return torch.full((scores.shape[0],), -torch.inf)
    ordered = scores.sort(dim=1, descending=True).values
    active = round(density * scores.shape[1])
    return (ordered[:, active - 1] + ordered[:, active]) / 2


def mlp_block(shape: tuple[int, int], half: bool = False) -> tuple[tuple[Tensor, ...], MlpWeights, GateWeights]:
    """(dense weights and biases, the same packed, a gate) of D inputs = outputs and F units; seeds torch."""
    torch.manual_seed(0)
    inputs, units = shape
    parts = (draw(units, inputs), draw(units), draw(inputs, units), draw(inputs))
    w = MlpWeights.pack(*parts, activation="relu", half=half)
    return parts, w, GateWeights.pack(torch.randn(inputs, RANK) / inputs**0.5, torch.randn(units, RANK))


def own_mask_cases(shape: tuple[int, int], rows: tuple[int, ...], densities: tuple[float, ...]) -> Iterator[Case]:
    """Vector rows, each with its own mask, D inputs = outputs and F units."""
    inputs, _ = shape
    parts, w, gate = mlp_block(shape)
    for count in rows:
        x = torch.randn(count, inputs)
        scores = reference.lowrank_scores(x, gate)
        for density in densities:
            thresholds = thresholds_for(scores, density)
            mask = scores > thresholds[:, None]

            def ours(x: Tensor = x, thresholds: Tensor = thresholds) -> str:
                return gated(x, gate, thresholds, w).kernel

            def control(x: Tensor = x, mask: Tensor = mask) -> Tensor:
                return reference.rows(x, mask, w)

            yield _mlp_case(shape, "own", count, density, mask, ours, control, (x, *parts))


def shared_mask_cases(shape: tuple[int, int], rows: tuple[int, ...], densities: tuple[float, ...]) -> Iterator[Case]:
    """The rows of one request share the mask that its mean row gets."""
    inputs, _ = shape
    parts, w, gate = mlp_block(shape)
    for count in rows:
        x = torch.randn(1, count, inputs)
        scores = reference.lowrank_scores(x.mean(1), gate)
        for density in densities:
            thresholds = thresholds_for(scores, density)
            mask = scores > thresholds[:, None]

            def ours(x: Tensor = x, thresholds: Tensor = thresholds) -> str:
                found = lowrank_mask(x.mean(1), gate, thresholds)
                return mlp_shared(x, found.mask, w, active=int(found.counts)).kernel

            def control(x: Tensor = x, mask: Tensor = mask) -> Tensor:
                return reference.rows(x[0], mask, w)

            yield _mlp_case(shape, "shared", count, density, mask, ours, control, (x[0], *parts))


def _mlp_case(
    shape: tuple[int, int],
    kind: str,
    rows: int,
    density: float,
    mask: Tensor,
    ours: Callable[[], str],
    control: Callable[[], Tensor],
    inputs: tuple[Tensor, ...],
) -> Case:
    D, units = shape
    gates = rows if kind == "own" else 1
    macs = 2 * D * units * rows
    return Case(
        shape=f"{D}x{units}",
        mask=kind,
        rows=rows,
        density=density,
        active_share=mask.float().mean().item(),
        macs_dense=macs,
        gate_share=gates * RANK * (D + units) / macs if density < 1.0 else 0.0,
        weight_bytes=int(mask.any(0).sum()) * 2 * D * 4,
        ours=ours,
        control=control,
        dense=dense_mlp,
        inputs=inputs,
    )


def _channel_mask(x: Tensor, gate: ChannelGateWeights, thresholds: Tensor) -> tuple[Tensor, int]:
    """The mask and how many units it keeps, as the packed layer does it: one native call where there is a library."""
    loaded = library()
    if loaded is None:
        found = threshold_mask(channel_scores(x, gate).scores, thresholds)
        return found.mask, int(found.counts.sum())
    native = native_channel_mask(loaded, x, gate, thresholds)
    return native.mask, sum(native.counts)


def conv_cases(quick: bool, densities: tuple[float, ...]) -> Iterator[Case]:
    """One sample through two 3x3 convolutions with gated middle channels; the gate pools, then 16 units, then one score
    a channel. Kept counts are what the density asks for: our kernel needs no rounding to oneDNN's blocks."""
    torch.manual_seed(0)
    for channels, size in QUICK_CONVS if quick else CONVS:
        parts = (
            draw(channels, channels, 3, 3),
            draw(channels),
            draw(channels, channels, 3, 3),
        )
        inputs = (torch.randn(1, channels, size, size), *parts, draw(channels))
        w = ConvWeights.pack((parts[0], parts[1]), (parts[2], inputs[-1]), activation="relu")
        score = Bottleneck.pack((torch.randn(RANK, channels), None), (torch.randn(channels, RANK), None))
        gate, x = ChannelGateWeights(score), inputs[0]
        for density in densities:
            if round(density * channels) == 0:
                continue
            thresholds = thresholds_for(channel_scores(x, gate).scores, density)
            mask = _channel_mask(x, gate, thresholds)[0]

            def ours(
                gate: ChannelGateWeights = gate,
                thresholds: Tensor = thresholds,
                x: Tensor = x,
                w: ConvWeights = w,
            ) -> str:
                mask, active = _channel_mask(x, gate, thresholds)
                return conv(x, mask, w, active=active).kernel

            def control(x: Tensor = x, mask: Tensor = mask, w: ConvWeights = w) -> Tensor:
                return reference.conv(x, mask, w)

            macs = 2 * 9 * channels * channels * size * size
            yield Case(
                shape=f"conv{channels}@{size}",
                mask="conv",
                rows=1,
                density=density,
                active_share=mask.float().mean().item(),
                macs_dense=macs,
                gate_share=2 * channels * RANK / macs,
                weight_bytes=int(mask.sum()) * 2 * 9 * channels * 4,
                ours=ours,
                control=control,
                dense=dense_conv,
                inputs=inputs,
            )
