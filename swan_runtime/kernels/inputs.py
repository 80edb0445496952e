"""The input-magnitude kernels by name: each fills y [B, O] from x [B, F], mask bool [B, F] and, if it is wanted,
dropped [B, F] with x - mean where an input is off and 0 elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from swan_runtime.kernels import reference
from swan_runtime.kernels.magnitude_weights import InputWeights
from swan_runtime.kernels.native import library
from swan_runtime.kernels.parallel import share_out
from swan_runtime.kernels.rows import PANEL_ROWS

InputKernel = Callable[[InputWeights, Tensor, Tensor, "Tensor | None", Tensor], None]


def native(w: InputWeights, x: Tensor, mask: Tensor, dropped: Tensor | None, y: Tensor) -> None:
    loaded = library()
    assert loaded is not None, "offered only where the library is loaded"
    loaded.inputs(w, x, mask, dropped, y)


def numba(w: InputWeights, x: Tensor, mask: Tensor, dropped: Tensor | None, y: Tensor) -> None:
    from swan_runtime.kernels import numba_rows

    numba_rows.inputs(w, x, mask, y)
    _drop(w, x, mask, dropped)


def dense(w: InputWeights, x: Tensor, mask: Tensor | None, dropped: Tensor | None, y: Tensor) -> None:
    """mask None: every input of every row is used, so no mean is, and the layer's own bias serves."""
    loaded = library()
    if loaded is not None and x.shape[0] >= PANEL_ROWS:
        loaded.dense_inputs(w, x, mask, dropped, y)
        return
    if mask is None:
        torch.addmm(w.bias, x, w.down_t, out=y)
        if dropped is not None:
            dropped.zero_()
        return
    torch.addmm(w.down_bias, (x - w.mean).mul_(mask), w.down_t, out=y)
    _drop(w, x, mask, dropped)


def oracle(w: InputWeights, x: Tensor, mask: Tensor, dropped: Tensor | None, y: Tensor) -> None:
    y.copy_(reference.inputs(x, mask, w))
    _drop(w, x, mask, dropped)


INPUT_KERNELS: dict[str, InputKernel] = {"native": native, "numba": numba, "dense": dense, "reference": oracle}


def run(kernel: str, w: InputWeights, x: Tensor, mask: Tensor, threads: int) -> Tensor:
    """y [B, O] of one kernel, the low-rank path included."""
    y = torch.empty(x.shape[0], w.outputs)
    dropped = None if w.path is None else torch.empty_like(x)
    function = INPUT_KERNELS[kernel]

    def part_of(part: slice) -> None:
        function(w, x[part], mask[part], None if dropped is None else dropped[part], y[part])

    if x.shape[0]:
        share_out(part_of, x.shape[0], threads if kernel in ("native", "numba") else 1)
    if w.path is not None and dropped is not None:
        y.addmm_(dropped @ w.path[0], w.path[1])
    return y


def _drop(w: InputWeights, x: Tensor, mask: Tensor, dropped: Tensor | None) -> None:
    if dropped is not None:
        torch.where(mask, x.new_zeros(()), x - w.mean, out=dropped)
