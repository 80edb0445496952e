"""Magnitude-gated ops: scores are values that exist anyway, so the gate is one elementwise pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from swan_runtime.kernels import dispatch, inputs, rows
from swan_runtime.kernels.activations import activate
from swan_runtime.kernels.checks import check_tensor, check_threads
from swan_runtime.kernels.dispatch import check_kernel, density
from swan_runtime.kernels.linear import linear
from swan_runtime.kernels.lowrank import GateMask, NativeMask, native_result, selection, threshold_mask
from swan_runtime.kernels.magnitude_weights import CatsWeights, InputWeights
from swan_runtime.kernels.native import library


def magnitude_mask(
    values: Tensor, weight: Tensor, thresholds: Tensor, k_max: int | None = None, activation: str = "identity"
) -> GateMask:
    """Apply the activation to values float32 [B, F] IN PLACE, then score = |value| * weight [F], active over the row's
    threshold [B]; at most k_max units a row, the top ones. Raises InvalidInputError for values that are NaN or Inf.
    """
    loaded = library()
    if loaded is None:
        values.copy_(activate(values, activation))
        return threshold_mask(values.abs() * weight, thresholds, k_max)
    s = selection(thresholds, values.shape[0], values.shape[1], k_max)
    return GateMask(*native_result(loaded.magnitude(values, activation, weight, s), s)[:3])


def cats_branch(x: Tensor, w: CatsWeights) -> Tensor:
    """x float32 [B, D] -> the dense branch before its activation [B, F]."""
    return linear(x, w.branch)


class MagnitudeResult(NamedTuple):
    """y float32 [B, O]; mask bool [B, F] and counts int64 [B] say what ran; cap_hits: rows that the cap cut down."""

    y: Tensor
    mask: Tensor
    counts: Tensor
    cap_hits: int
    kernel: str


def cats_gated(
    x: Tensor, w: CatsWeights, thresholds: Tensor, *, k_max: int | None = None, threads: int = 1
) -> MagnitudeResult:
    """Branch, mask and block, the fastest way: x [B, D], thresholds [B] (all -inf runs every unit) -> y [B, O]."""
    branch = cats_branch(x, w)
    loaded = library()
    if loaded is None or threads > 1:
        found = magnitude_mask(branch, w.weight, thresholds, k_max, w.activation)
        return MagnitudeResult(*_with(cats(x, branch, found.mask, w, threads=threads), found))
    x = check_tensor(x, "x", torch.float32, (None, w.block.inputs))
    y = torch.empty(x.shape[0], w.block.outputs)
    s = selection(thresholds, x.shape[0], w.block.units, k_max, dispatch.most_active(w.block, x.shape[0]))
    native = native_result(loaded.cats(w.block, branch, w.activation, w.weight, x, s, y), s)
    if native.dense:
        rows.dense(w.block, x, _holes(native), y, branch)
    return MagnitudeResult(y, native.mask, native.counts, native.cap_hits, "dense" if native.dense else "native")


def sparse_gated(
    x: Tensor, w: InputWeights, thresholds: Tensor, *, k_max: int | None = None, threads: int = 1
) -> MagnitudeResult:
    """Mask and product, the fastest way: x [B, F], thresholds [B] (all -inf uses every input) -> y [B, O]."""
    x = check_tensor(x, "x", torch.float32, (None, w.units))
    loaded = library()
    if loaded is None or threads > 1:
        found = magnitude_mask(x, w.weight, thresholds, k_max)
        return MagnitudeResult(*_with(sparse_inputs(x, found.mask, w, threads=threads), found))
    y = torch.empty(x.shape[0], w.outputs)
    dropped = None if w.path is None else torch.empty_like(x)
    most = dispatch.most_active(w, x.shape[0], dispatch.INPUTS)
    s = selection(thresholds, x.shape[0], w.units, k_max, most)
    native = native_result(loaded.sparse(w, x, s, dropped, y), s)
    if native.dense:
        inputs.dense(w, x, _holes(native), dropped, y)
    if w.path is not None and dropped is not None:
        y.addmm_(dropped @ w.path[0], w.path[1])
    return MagnitudeResult(y, native.mask, native.counts, native.cap_hits, "dense" if native.dense else "native")


def _with(result: tuple[Tensor, str], found: GateMask) -> tuple[Tensor, Tensor, Tensor, int, str]:
    return result[0], found.mask, found.counts, found.cap_hits, result[1]


def _holes(native: NativeMask) -> Tensor | None:
    """The mask, or None where every unit of every row is active."""
    return None if rows.all_active(native.counts, native.mask.shape[1]) else native.mask


def cats(
    x: Tensor, branch: Tensor, mask: Tensor, w: CatsWeights, *, kernel: str | None = None, threads: int = 1
) -> tuple[Tensor, str]:
    """x [B, D], branch [B, F] after its activation, mask bool [B, F] -> (y [B, O], the kernel that served)."""
    x = check_tensor(x, "x", torch.float32, (None, w.block.inputs))
    branch = check_tensor(branch, "branch", torch.float32, (x.shape[0], w.block.units))
    mask = check_tensor(mask, "mask", torch.bool, (x.shape[0], w.block.units))
    check_threads(threads)
    if kernel is None:
        kernel = dispatch.choose(w.block, dispatch.OWN, x.shape[0], density(mask), threads)
    check_kernel(kernel, rows.ROW_KERNELS)
    return rows.run(kernel, w.block, x, mask, threads, branch), kernel


def sparse_inputs(
    x: Tensor, mask: Tensor, w: InputWeights, *, kernel: str | None = None, threads: int = 1
) -> tuple[Tensor, str]:
    """x [B, F], mask bool [B, F] of the inputs that are used -> (y [B, O], the kernel that served)."""
    x = check_tensor(x, "x", torch.float32, (None, w.units))
    mask = check_tensor(mask, "mask", torch.bool, (x.shape[0], w.units))
    check_threads(threads)
    if kernel is None:
        kernel = dispatch.choose(w, dispatch.INPUTS, x.shape[0], density(mask), threads)
    check_kernel(kernel, inputs.INPUT_KERNELS)
    return inputs.run(kernel, w, x, mask, threads), kernel
