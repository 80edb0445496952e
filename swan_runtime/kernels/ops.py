"""The public ops: tensors and a mask in, the result and the name of the kernel that served out."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from swan_runtime.errors import InvalidInputError
from swan_runtime.kernels import convolution, dispatch, rows, shared
from swan_runtime.kernels.checks import check_images, check_tensor, check_threads, describe
from swan_runtime.kernels.conv_weights import ConvWeights
from swan_runtime.kernels.dispatch import check_kernel, density
from swan_runtime.kernels.lowrank import capped_mask, check_gate, lowrank_mask, lowrank_scores, native_mask
from swan_runtime.kernels.native import library
from swan_runtime.kernels.native.library import NOT_FINITE, SharedSelection
from swan_runtime.kernels.weights import GateWeights, GluWeights, MlpWeights


class KernelResult(NamedTuple):
    """y: float32 result. kernel: name of the kernel that computed it."""

    y: Tensor
    kernel: str


class GatedResult(NamedTuple):
    """y float32 [B, O]; mask bool [B, F] and counts int64 [B] say what ran; cap_hits: rows that the cap cut down."""

    y: Tensor
    mask: Tensor
    counts: Tensor
    cap_hits: int
    kernel: str


def mlp(x: Tensor, mask: Tensor, w: MlpWeights, *, kernel: str | None = None, threads: int = 1) -> KernelResult:
    """x float32 [B, D], mask bool [B, F], own mask a row -> y float32 [B, O]. kernel: None = the dispatcher chooses."""
    return _rows(x, mask, w, kernel, threads)


def glu(x: Tensor, mask: Tensor, w: GluWeights, *, kernel: str | None = None, threads: int = 1) -> KernelResult:
    """As mlp, for gated units."""
    return _rows(x, mask, w, kernel, threads)


def _rows(x: Tensor, mask: Tensor, w: MlpWeights | GluWeights, kernel: str | None, threads: int) -> KernelResult:
    x = check_tensor(x, "x", torch.float32, (None, w.inputs))
    mask = check_tensor(mask, "mask", torch.bool, (x.shape[0], w.units))
    check_threads(threads)
    if kernel is None:
        kernel = dispatch.choose(w, dispatch.OWN, x.shape[0], density(mask), threads)
    check_kernel(kernel, rows.ROW_KERNELS)
    return KernelResult(rows.run(kernel, w, x, mask, threads), kernel)


def gated(
    x: Tensor,
    gate: GateWeights,
    thresholds: Tensor,
    w: MlpWeights | GluWeights,
    *,
    k_max: int | None = None,
    threads: int = 1,
) -> GatedResult:
    """Gate and block in one call, the fastest way for vector rows: x [B, D] -> scores -> own mask a row -> y [B, O].

    thresholds float32 [B], one a row; all -inf runs every unit and skips the gate. Raises InvalidInputError for scores
    that are NaN or Inf.
    """
    loaded = library()
    if loaded is None or threads > 1:
        mask, counts, hits = lowrank_mask(x, gate, thresholds, k_max)
        y, kernel = _rows(x, mask, w, None, threads)
        return GatedResult(y, mask, counts, hits, kernel)
    x = check_tensor(x, "x", torch.float32, (None, w.inputs))
    check_gate(gate, w.inputs, w.units)
    y = torch.empty(x.shape[0], w.outputs)
    most = dispatch.most_active(w, x.shape[0])
    found = native_mask(loaded, x, gate, thresholds, k_max, w, most, y)
    if found.dense:
        rows.dense(w, x, None if rows.all_active(found.counts, w.units) else found.mask, y)
    return GatedResult(y, found.mask, found.counts, found.cap_hits, "dense" if found.dense else "native")


class SharedResult(NamedTuple):
    """y float32 [T, O]; mask bool [R, F]; counts, hits int64 [R]: active units, and 1 for a mask cut to its cap."""

    y: Tensor
    mask: Tensor
    counts: Tensor
    hits: Tensor
    kernel: str


def gated_shared(
    x: Tensor,
    gate: GateWeights,
    thresholds: Tensor,
    caps: Tensor,
    w: MlpWeights | GluWeights,
    offsets: Tensor,
    *,
    threads: int = 1,
) -> SharedResult:
    """mlp_shared with the masks that the gate gives each request's mean row. thresholds float32, caps int64 [R].

    x float32 [T, D], offsets int64 [R + 1]. Raises InvalidInputError for scores that are NaN or Inf.
    """
    requests = thresholds.shape[0]
    x = check_tensor(x, "x", torch.float32, (None, w.inputs))
    thresholds = check_tensor(thresholds, "thresholds", torch.float32, (requests,))
    caps = check_tensor(caps, "caps", torch.int64, (requests,))
    check_gate(gate, w.inputs, w.units)
    offsets = _check_offsets(offsets, requests, x.shape[0])
    loaded = library()
    if loaded is None or threads > 1:
        mask, counts, hits = capped_mask(lowrank_scores(request_means(x, offsets), gate), thresholds, caps)
        y, kernel = mlp_shared(x, mask, w, offsets=offsets, threads=threads)
        return SharedResult(y, mask, counts, hits, kernel)
    s = SharedSelection(
        thresholds,
        caps,
        torch.empty(requests, dtype=torch.int64),
        torch.empty(requests, dtype=torch.int64),
        torch.empty(requests, w.units, dtype=torch.bool),
    )
    y = torch.empty(x.shape[0], w.outputs)
    if loaded.shared_gated(gate, w, x, offsets, s, y) == NOT_FINITE:
        raise InvalidInputError("scores", "finite values", "NaN or Inf")
    return SharedResult(y, s.mask, s.counts, s.hits, "native")


def request_means(x: Tensor, offsets: Tensor) -> Tensor:
    """x [T, D] -> [R, D]: the mean row of each request, zero where it has no row."""
    lengths = offsets.diff()
    rows = torch.arange(len(lengths)).repeat_interleave(lengths)
    sums = x.new_zeros(len(lengths), x.shape[1]).index_add(0, rows, x)
    return sums / lengths.clamp_min(1)[:, None]


def mlp_shared(
    x: Tensor,
    mask: Tensor,
    w: MlpWeights | GluWeights,
    *,
    offsets: Tensor | None = None,
    kernel: str | None = None,
    threads: int = 1,
    active: int | None = None,
) -> KernelResult:
    """The rows (tokens, pixels) of one request share its mask. mask bool [R, F], one a request.

    x float32 [R, M, D] -> y [R, M, O]; or ragged: x [T, D] with offsets int64 [R + 1], request i owns rows
    offsets[i]..offsets[i + 1] -> y [T, O]. Serves MlpWeights and GluWeights. active: as in conv.
    """
    check_threads(threads)
    mask = check_tensor(mask, "mask", torch.bool, (None, w.units))
    requests = mask.shape[0]
    if offsets is None:
        x = check_tensor(x, "x", torch.float32, (requests, None, w.inputs))
        offsets = torch.arange(requests + 1) * x.shape[1]
    else:
        x = check_tensor(x, "x", torch.float32, (None, w.inputs))
        offsets = _check_offsets(offsets, requests, x.shape[0])
    flat = x.view(-1, w.inputs)
    if kernel is None:
        share = density(mask) if active is None else active / max(mask.numel(), 1)
        kernel = dispatch.choose(w, dispatch.SHARED, flat.shape[0] // max(requests, 1), share, threads)
    check_kernel(kernel, shared.SHARED_KERNELS)
    y = shared.run(kernel, w, flat, offsets, mask, threads)
    return KernelResult(y.view(*x.shape[:-1], w.outputs), kernel)


def conv(
    x: Tensor,
    mask: Tensor,
    w: ConvWeights,
    *,
    beta: Tensor | None = None,
    kernel: str | None = None,
    threads: int = 1,
    active: int | None = None,
) -> KernelResult:
    """x float32 [B, C, H, W], mask bool [B, K] (own mask a sample) -> y [B, O, H'', W'']. beta [B, K]: meta-ACON.

    active: how many channels of all samples are active, if the caller knows it.
    """
    x = check_images(x, "x", w.inputs)
    mask = check_tensor(mask, "mask", torch.bool, (x.shape[0], w.units))
    check_threads(threads)
    if beta is not None:
        if w.acon is None:
            raise InvalidInputError("beta", "none: the activation has no switching factor", describe(beta))
        beta = check_tensor(beta, "beta", torch.float32, (x.shape[0], w.units))
    active = int(mask.count_nonzero()) if active is None else active
    if kernel is None:
        kernel = dispatch.choose_conv(w, x.shape[0], active, (x.shape[2], x.shape[3]), threads)
    check_kernel(kernel, convolution.CONV_KERNELS)
    return KernelResult(convolution.run(kernel, w, x, mask, beta, threads, active), kernel)


def _check_offsets(offsets: Tensor, requests: int, rows: int) -> Tensor:
    offsets = check_tensor(offsets, "offsets", torch.int64, (requests + 1,))
    bounds = offsets.tolist()  # a loop over few numbers is many times faster than three tensor operations
    if bounds[0] != 0 or bounds[-1] != rows or any(b < a for a, b in pairwise(bounds)):
        raise InvalidInputError("offsets", f"ascending from 0 to {rows}", str(bounds))
    return offsets
