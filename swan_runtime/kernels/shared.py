"""The shared-mask kernels by name: the rows of one request share its mask. Each fills y [T, O] from x [T, D]."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from swan_runtime.kernels import rows
from swan_runtime.kernels.activations import activate
from swan_runtime.kernels.native import Library, library
from swan_runtime.kernels.parallel import share_out
from swan_runtime.kernels.weights import GluWeights, MlpWeights

Weights = MlpWeights | GluWeights
_ALIGNED = 16  # floats: a cache line

# x [T, D], offsets int64 [R + 1], mask bool [R, F], y [T, O]
SharedKernel = Callable[[Weights, Tensor, Tensor, Tensor, Tensor], None]


def native(w: Weights, x: Tensor, offsets: Tensor, mask: Tensor, y: Tensor) -> None:
    """Dense products over the active units, whose weight rows are read in place."""
    loaded = library()
    assert loaded is not None, "offered only where the library is loaded"
    loaded.shared(w, x, offsets, mask, y)


def gather(w: Weights, x: Tensor, offsets: Tensor, mask: Tensor, y: Tensor) -> None:
    """Request by request: copy the active units' rows once, then MKL on them."""
    bounds, loaded = offsets.tolist(), library()
    for request in range(mask.shape[0]):
        part = slice(bounds[request], bounds[request + 1])
        if loaded is None:
            _gather_gemm(w, x[part], mask[request], y[part])
        elif part.stop > part.start:
            _copied_gemm(loaded, w, x[part], mask[request], y[part])


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


def _copied_gemm(loaded: Library, w: Weights, x: Tensor, mask: Tensor, out: Tensor) -> None:
    """A unit in each row of the hidden values: MKL then multiplies the copied rows at 150 GF/s, not 130.

    (64 rows, 460 of 1536 units, 384 inputs; one thread of a 2-core AVX-512 machine.)
    """
    inputs, outputs, units, rows = w.inputs, w.outputs, w.units, x.shape[0]
    glu = isinstance(w, GluWeights)
    room = _Room((1 + glu) * units * (inputs + rows) + units * (outputs + 3))
    up, linear = room.take(units * inputs), room.take(glu * units * inputs)
    down, constants = room.take(units * outputs), room.take(3 * units)
    count = loaded.gather(w, mask, [room.address(at) for at in (up, linear, down, constants)])
    h = torch.mm(room.matrix(up, count, inputs), x.t(), out=room.matrix(room.take(count * rows), count, rows))
    other = None
    if glu:
        other = torch.mm(
            room.matrix(linear, count, inputs), x.t(), out=room.matrix(room.take(count * rows), count, rows)
        )
    loaded.finish_turned(w, room.address(constants), other, h)
    torch.addmm(w.down_bias, h.t(), room.matrix(down, count, outputs), out=out)


class _Room:
    """Memory of the calling thread, kept between calls: fresh pages would cost more than what is copied into them."""

    _kept = threading.local()

    def __init__(self, floats: int) -> None:
        flat: Tensor | None = getattr(self._kept, "flat", None)
        if flat is None or flat.numel() < floats + _ALIGNED * 8:
            flat = self._kept.flat = torch.empty(floats + _ALIGNED * 8)
        self._flat, self._start, self._used = flat, flat.data_ptr(), 0

    def take(self, floats: int) -> int:
        """Where so many floats begin."""
        at = self._used
        self._used += -(-floats // _ALIGNED) * _ALIGNED
        return at

    def address(self, at: int) -> int:
        return self._start + 4 * at

    def matrix(self, at: int, rows: int, columns: int) -> Tensor:
        return self._flat.as_strided((rows, columns), (columns, 1), at)


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
