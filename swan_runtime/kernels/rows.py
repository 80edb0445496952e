"""The row kernels by name: each fills y [B, O] from x [B, D] and a bool mask [B, F]."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from swan_runtime.kernels import reference
from swan_runtime.kernels.activations import activate
from swan_runtime.kernels.native import library
from swan_runtime.kernels.parallel import share_out
from swan_runtime.kernels.weights import GluWeights, MlpWeights

Weights = MlpWeights | GluWeights
# x [B, D], mask bool [B, F], y [B, O], scale None or [B, F]: multiplies the units' values (CATS)
RowKernel = Callable[[Weights, Tensor, Tensor, Tensor, Tensor | None], None]


# From so many rows on our own dense products are faster than MKL's.
PANEL_ROWS = 4


def native(w: Weights, x: Tensor, mask: Tensor, y: Tensor, scale: Tensor | None = None) -> None:
    loaded = library()
    assert loaded is not None, "the dispatcher offers this kernel only where the library is loaded"
    loaded.rows(w, x, mask, y, scale)


def numba(w: Weights, x: Tensor, mask: Tensor, y: Tensor, scale: Tensor | None = None) -> None:
    # Imported here: numba takes a second to import, and only machines without a compiler need it.
    from swan_runtime.kernels import numba_rows

    numba_rows.rows(w, x, mask, y, scale)


def all_active(counts: Tensor, units: int) -> bool:
    """Whether every unit of every row is active. counts int64 [B]."""
    return min(counts.tolist(), default=units) == units


def dense(w: Weights, x: Tensor, mask: Tensor | None, y: Tensor, scale: Tensor | None = None) -> None:
    """Every unit by MKL, then one fused pass for activation, mean and mask: for when little can be skipped.

    mask None: every unit of every row is active.
    """
    loaded = library()
    if loaded is not None and x.shape[0] >= PANEL_ROWS:
        loaded.dense(w, x, mask, y, scale)
        return
    up = F.linear(x, w.up, w.up_bias)
    h = F.linear(x, w.gate, w.gate_bias) if isinstance(w, GluWeights) else up
    factor = up if isinstance(w, GluWeights) else scale
    if loaded is not None:
        loaded.finish(w, mask, factor, h)
    else:
        h = activate(h, w.activation)
        h = (h if factor is None else h.mul_(factor)).sub_(w.mean)
        h = h if mask is None else h.mul_(mask)
    torch.addmm(w.down_bias, h, w.down_t, out=y)


def oracle(w: Weights, x: Tensor, mask: Tensor, y: Tensor, scale: Tensor | None = None) -> None:
    y.copy_(reference.rows(x, mask, w, scale))


ROW_KERNELS: dict[str, RowKernel] = {"native": native, "numba": numba, "dense": dense, "reference": oracle}


def run(kernel: str, w: Weights, x: Tensor, mask: Tensor, threads: int, scale: Tensor | None = None) -> Tensor:
    """y [B, O] of one kernel; own kernels share the rows out over at most `threads` threads."""
    y = torch.empty(x.shape[0], w.outputs)
    function = ROW_KERNELS[kernel]
    if threads == 1 and x.shape[0]:
        function(w, x, mask, y, scale)
        return y

    def part_of(part: slice) -> None:
        function(w, x[part], mask[part], y[part], None if scale is None else scale[part])

    if x.shape[0]:
        share_out(part_of, x.shape[0], threads if kernel in ("native", "numba") else 1)
    return y
