"""More regimes for `swan bench kernels`: bfloat16 weights, CATS on a GLU, and input magnitudes (TEAL)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernel_cases import RANK, Case, dense_mlp, draw, mlp_block, thresholds_for
from swan_runtime.kernels import (
    CatsWeights,
    InputWeights,
    cats_gated,
    gated,
    reference,
    sparse_gated,
)


def dense_glu(x: Tensor, branch: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """SwiGLU as anybody would write it."""
    return F.linear(F.silu(F.linear(x, branch)) * F.linear(x, up), down)


def half_cases(shape: tuple[int, int], rows: tuple[int, ...], densities: tuple[float, ...]) -> Iterator[Case]:
    """As own masks, with bfloat16 weights, against dense float32."""
    inputs, units = shape
    parts, w, gate = mlp_block(shape, half=True)
    for count in rows:
        x = torch.randn(count, inputs)
        scores = reference.lowrank_scores(x, gate)
        for density in densities:
            thresholds = thresholds_for(scores, density)
            mask = scores > thresholds[:, None]
            macs = 2 * inputs * units * count
            yield Case(
                shape=f"{inputs}x{units}",
                mask="half",
                rows=count,
                density=density,
                active_share=mask.float().mean().item(),
                macs_dense=macs,
                gate_share=count * RANK * (inputs + units) / macs if density < 1.0 else 0.0,
                weight_bytes=int(mask.any(0).sum()) * 2 * inputs * 2,
                ours=lambda x=x, thresholds=thresholds: gated(x, gate, thresholds, w).kernel,
                control=partial(reference.rows, x, mask, w),
                dense=dense_mlp,
                inputs=(x, *parts),
            )


def cats_cases(shape: tuple[int, int], rows: tuple[int, ...], densities: tuple[float, ...]) -> Iterator[Case]:
    """A GLU whose dense branch (a third of the MACs, booked as the gate's) decides what the other two skip."""
    torch.manual_seed(0)
    inputs, units = shape
    branch, up, down = draw(units, inputs), draw(units, inputs), draw(inputs, units)
    w = CatsWeights.pack((branch, None), (up, None), (down, None), activation="silu")
    for count in rows:
        x = torch.randn(count, inputs)
        values = F.silu(F.linear(x, branch))
        for density in densities:
            thresholds = thresholds_for(values.abs(), density)
            mask = values.abs() > thresholds[:, None]

            def ours(x: Tensor = x, thresholds: Tensor = thresholds) -> str:
                return cats_gated(x, w, thresholds).kernel

            def control(x: Tensor = x, mask: Tensor = mask) -> Tensor:
                return F.linear(F.silu(F.linear(x, branch)) * F.linear(x, up) * mask, down)

            yield Case(
                shape=f"{inputs}x{units}",
                mask="cats",
                rows=count,
                density=density,
                active_share=2 / 3 * mask.float().mean().item(),
                macs_dense=3 * inputs * units * count,
                gate_share=1 / 3,
                weight_bytes=(int(mask.any(0).sum()) * 2 + units) * inputs * 4,
                ours=ours,
                control=control,
                dense=dense_glu,
                inputs=(x, branch, up, down),
            )


def input_cases(shape: tuple[int, int], rows: tuple[int, ...], densities: tuple[float, ...]) -> Iterator[Case]:
    """One linear layer, F inputs and D outputs, that skips small inputs."""
    torch.manual_seed(0)
    outputs, units = shape
    matrix = draw(outputs, units)
    w = InputWeights.pack((matrix, None))
    for count in rows:
        x = torch.randn(count, units)
        for density in densities:
            thresholds = thresholds_for(x.abs(), density)
            mask = x.abs() > thresholds[:, None]

            def ours(x: Tensor = x, thresholds: Tensor = thresholds) -> str:
                return sparse_gated(x, w, thresholds).kernel

            def control(x: Tensor = x, mask: Tensor = mask) -> Tensor:
                return F.linear(x * mask, matrix)

            yield Case(
                shape=f"{outputs}x{units}",
                mask="inputs",
                rows=count,
                density=density,
                active_share=mask.float().mean().item(),
                macs_dense=outputs * units * count,
                gate_share=0.0,
                weight_bytes=int(mask.any(0).sum()) * outputs * 4,
                ours=ours,
                control=control,
                dense=F.linear,
                inputs=(x, matrix),
            )
