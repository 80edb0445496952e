"""The shared-mask kernels by name: the rows of one request share its mask. Each fills y [T, O] from x [T, D]."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from swan_runtime.kernels import rows
from swan_runtime.kernels.activations import activate
from swan_runtime.kernels.native import library
from swan_runtime.kernels.parallel import share_out
from swan_runtime.kernels.weights import GluWeights, MlpWeights

Weights = MlpWeights | GluWeights

# x [T, D], offsets int64 [R + 1], mask bool [R, F], y [T, O]
SharedKernel = Callable[[Weights, Tensor, Tensor, Tensor, Tensor], None]


def native(w: Weights, x: Tensor, offsets: Tensor, mask: Tensor, y: Tensor) -> None:
    """Dense products over the active units, whose weight rows are read in place."""
    loaded = library()
    assert loaded is not None, "offered only where the library is loaded"
    loaded.shared(w, x, offsets, mask, y)


def gather(w: Weights, x: Tensor, offsets: Tensor, mask: Tensor, y: Tensor) -> None:
    """Request by request: copy the active units' rows once, then MKL on them."""
    bounds = offsets.tolist()
    for request in range(mask.shape[0]):
        part = slice(bounds[request], bounds[request + 1])
        _gather_gemm(w, x[part], mask[request], y[part])


def dense(w: Weights, x: Tensor, offsets: Tensor, mask: Tensor, y: Tensor) -> None:
    """Every unit for all rows at once, each row with its request's mask."""
    rows.dense(w, x, None if bool(mask.all()) else _per_row(mask, offsets), y)


def oracle(w: Weights, x: Tensor, offsets: Tensor, mask: Tensor, y: Tensor) -> None:
    rows.oracle(w, x, _per_row(mask, offsets), y)


SHARED_KERNELS: dict[str, SharedKernel] = {"native": native, "gather": gather, "dense": dense, "reference": oracle}


def run(kernel: str, w: Weights, x: Tensor, offsets: Tensor, mask: Tensor, threads: int) -> Tensor:
    """y [T, O] of one kernel; the native one shares the requests out over at most `threads` threads."""
    y = torch.empty(x.shape[0], w.outputs)
    function = SHARED_KERNELS[kernel]

    def part_of(part: slice) -> None:
        # Offsets stay absolute: each part reads its own requests of the whole x and y.
        function(w, x, offsets[part.start : part.stop + 1], mask[part], y)

    if x.shape[0]:
        share_out(part_of, mask.shape[0], threads if kernel == "native" else 1)
    return y


def _per_row(mask: Tensor, offsets: Tensor) -> Tensor:
    return mask.repeat_interleave(offsets.diff(), dim=0)


def _gather_gemm(w: Weights, x: Tensor, mask: Tensor, out: Tensor) -> None:
    index = mask.nonzero().flatten()
    if index.numel() == 0:
        out.copy_(w.down_bias.expand_as(out))
        return
    h = F.linear(x, w.up[index], w.up_bias[index])
    if isinstance(w, GluWeights):
        h = activate(F.linear(x, w.gate[index], w.gate_bias[index]), w.activation) * h
    else:
        h = activate(h, w.activation)
    torch.addmm(w.down_bias, h.sub_(w.mean[index]), w.down_t[index], out=out)
