"""Magnitude-gated ops: scores are values that exist anyway, so the gate is one elementwise pass."""

from __future__ import annotations

import torch
from torch import Tensor

from swan_runtime.errors import InvalidInputError
from swan_runtime.kernels import dispatch, inputs, rows
from swan_runtime.kernels.activations import activate
from swan_runtime.kernels.checks import check_tensor, check_threads
from swan_runtime.kernels.dispatch import check_kernel, density
from swan_runtime.kernels.lowrank import GateMask, check_cap, threshold_mask
from swan_runtime.kernels.magnitude_weights import CatsWeights, InputWeights
from swan_runtime.kernels.native import library
from swan_runtime.kernels.native.library import NOT_FINITE, Selection


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
    count, units = values.shape
    thresholds = check_tensor(thresholds, "thresholds", torch.float32, (count,))
    mask, counts = torch.empty(count, units, dtype=torch.bool), torch.empty(count, dtype=torch.int64)
    cap = units if k_max is None else check_cap(k_max)
    selection = Selection(cap, 0, 0, thresholds.data_ptr(), counts.data_ptr(), mask.data_ptr())
    if loaded.magnitude(values, activation, weight, selection) == NOT_FINITE:
        raise InvalidInputError("scores", "finite values", "NaN or Inf")
    return GateMask(mask, counts, selection.cap_hits)


def cats_branch(x: Tensor, w: CatsWeights) -> Tensor:
    """x float32 [B, D] -> the dense branch before its activation [B, F]."""
    x = check_tensor(x, "x", torch.float32, (None, w.block.inputs))
    return torch.addmm(w.branch_bias, x, w.branch_t)


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
