"""The same row kernels in Numba, for machines without a C compiler: unit-major up product, tiled down product."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from torch import Tensor

from swan_runtime.kernels.activations import CODES
from swan_runtime.kernels.magnitude_weights import InputWeights
from swan_runtime.kernels.weights import GluWeights, MlpWeights

GROUP = 64
TILE = 128


@njit(nogil=True, fastmath=True, cache=True)
def _activate(value: Any, code: int) -> Any:
    if code == 1:
        return max(value, np.float32(0.0))
    if code == 2:
        return np.float32(0.5) * value * (np.float32(1.0) + math.erf(value * np.float32(0.7071067811865476)))
    if code == 3:
        return value / (np.float32(1.0) + math.exp(-value))
    return value


@njit(nogil=True, fastmath=True, cache=True)
def _dots(weight: Any, x: Any, rows: Any, first: int, count: int, out: Any) -> None:
    """out[first..first + count] = dots of one weight row with up to 4 rows of x, which share its loads."""
    if count == 4:
        x0, x1, x2, x3 = x[rows[first]], x[rows[first + 1]], x[rows[first + 2]], x[rows[first + 3]]
        s0 = s1 = s2 = s3 = np.float32(0.0)
        for d in range(weight.shape[0]):
            value = weight[d]
            s0 += value * x0[d]
            s1 += value * x1[d]
            s2 += value * x2[d]
            s3 += value * x3[d]
        out[first], out[first + 1], out[first + 2], out[first + 3] = s0, s1, s2, s3
        return
    for i in range(first, first + count):
        row, s = x[rows[i]], np.float32(0.0)
        for d in range(weight.shape[0]):
            s += weight[d] * row[d]
        out[i] = s


@njit(nogil=True, fastmath=True, cache=True)
def _all_dots(weight: Any, x: Any, rows: Any, count: int, out: Any) -> None:
    for first in range(0, count, 4):
        _dots(weight, x, rows, first, min(4, count - first), out)


@njit(nogil=True, fastmath=True, cache=True)
def _up(block: Any, code: int, glu: bool, x: Any, mask: Any, scale: Any, index: Any, value: Any, counts: Any) -> None:
    """Fill each row's list of active units and their values; a value of 0 (ReLU) is left out. scale: or no rows."""
    up, up_bias, linear, linear_bias, mean = block
    rows = np.empty(x.shape[0], np.int64)
    h, other = np.empty(x.shape[0], np.float32), np.empty(x.shape[0], np.float32)
    for j in range(up.shape[0]):
        count = 0
        for r in range(x.shape[0]):
            rows[count] = r
            count += mask[r, j]
        if count == 0:
            continue
        _all_dots(up[j], x, rows, count, h)
        if glu:
            _all_dots(linear[j], x, rows, count, other)
        for i in range(count):
            v = _activate(h[i] + up_bias[j], code)
            if glu:
                v *= other[i] + linear_bias[j]
            r = rows[i]
            if scale.shape[0] > 0:
                v *= scale[r, j]
            v -= mean[j]
            index[r, counts[r]] = j
            value[r, counts[r]] = v
            counts[r] += v != 0.0


@njit(nogil=True, fastmath=True, cache=True)
def _down(down_t: Any, bias: Any, index: Any, value: Any, counts: Any, y: Any) -> None:
    """Row by row over 128 columns, 4 units a pass: y is loaded and stored once for four."""
    for first in range(0, down_t.shape[1], TILE):
        last = min(first + TILE, down_t.shape[1])
        for r in range(y.shape[0]):
            out = y[r, first:last]
            out[:] = bias[first:last]
            whole = counts[r] // 4 * 4
            for k in range(0, whole, 4):
                w0, w1 = down_t[index[r, k], first:last], down_t[index[r, k + 1], first:last]
                w2, w3 = down_t[index[r, k + 2], first:last], down_t[index[r, k + 3], first:last]
                v0, v1, v2, v3 = value[r, k], value[r, k + 1], value[r, k + 2], value[r, k + 3]
                for c in range(last - first):
                    out[c] += v0 * w0[c] + v1 * w1[c] + v2 * w2[c] + v3 * w3[c]
            for k in range(whole, counts[r]):
                w0, v0 = down_t[index[r, k], first:last], value[r, k]
                for c in range(last - first):
                    out[c] += v0 * w0[c]


@njit(nogil=True, fastmath=True, cache=True)
def _rows(block: Any, code: int, glu: bool, down_t: Any, bias: Any, x: Any, mask: Any, scale: Any, y: Any) -> None:
    units = mask.shape[1]
    index = np.empty((GROUP, units + 1), np.int64)
    value = np.empty((GROUP, units + 1), np.float32)
    for first in range(0, x.shape[0], GROUP):
        part = slice(first, min(first + GROUP, x.shape[0]))
        counts = np.zeros(GROUP, np.int64)
        _up(block, code, glu, x[part], mask[part], scale[part], index, value, counts)
        _down(down_t, bias, index, value, counts, y[part])


@njit(nogil=True, fastmath=True, cache=True)
def _inputs(mean: Any, down_t: Any, bias: Any, x: Any, mask: Any, y: Any) -> None:
    units = mask.shape[1]
    index = np.empty((GROUP, units + 1), np.int64)
    value = np.empty((GROUP, units + 1), np.float32)
    for first in range(0, x.shape[0], GROUP):
        counts = np.zeros(GROUP, np.int64)
        last = min(first + GROUP, x.shape[0])
        for r in range(first, last):
            for j in range(units):
                k = counts[r - first]
                index[r - first, k] = j
                value[r - first, k] = x[r, j] - mean[j]
                counts[r - first] += mask[r, j]
        _down(down_t, bias, index, value, counts, y[first:last])


def rows(w: MlpWeights | GluWeights, x: Tensor, mask: Tensor, y: Tensor, scale: Tensor | None = None) -> None:
    """y [B, O] of x [B, D] with mask bool [B, F]; scale: see rows.py. Compiles at the first call, never at import."""
    glu = isinstance(w, GluWeights)
    first, first_bias = (w.gate, w.gate_bias) if isinstance(w, GluWeights) else (w.up, w.up_bias)
    block = (first.numpy(), first_bias.numpy(), w.up.numpy(), w.up_bias.numpy(), w.mean.numpy())
    factor = np.empty((0, w.units), np.float32) if scale is None else scale.numpy()
    down = w.down_t.numpy(), w.down_bias.numpy()
    _rows(block, CODES[w.activation], glu, *down, x.numpy(), mask.numpy(), factor, y.numpy())


def inputs(w: InputWeights, x: Tensor, mask: Tensor, y: Tensor) -> None:
    """y [B, O] of x [B, F] with mask bool [B, F], without the low-rank path."""
    _inputs(w.mean.numpy(), w.down_t.numpy(), w.down_bias.numpy(), x.numpy(), mask.numpy(), y.numpy())
