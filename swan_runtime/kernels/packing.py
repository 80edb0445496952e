"""How packed weights are laid out and folded."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from swan_runtime.kernels.checks import check_tensor

TILE = 128  # columns of the down matrix per tile: 8 AVX-512 accumulators (gating.md section 4 measured 128)


def tile_columns(down_t: Tensor) -> Tensor:
    """[F, O] -> flat [ceil(O/128)][F][128], zero-padded: the accumulators of one tile fit in registers."""
    units, outputs = down_t.shape
    tiles = -(-outputs // TILE)
    padded = F.pad(down_t, (0, tiles * TILE - outputs))
    return padded.view(units, tiles, TILE).transpose(0, 1).contiguous().view(-1)


def frozen(value: Tensor | None, name: str, shape: tuple[int | None, ...]) -> Tensor:
    """A contiguous detached float32 copy; None becomes zeros."""
    if value is None:
        return torch.zeros([size or 0 for size in shape])
    return check_tensor(value.detach(), name, torch.float32, shape).clone(memory_format=torch.contiguous_format)


def fold(bias: Tensor, down: Tensor, mean: Tensor) -> Tensor:
    """b + W mean, summed in float64: the fold must not be the place where precision is lost."""
    return (bias.double() + down.double() @ mean.double()).float()


class Down(NamedTuple):
    """The second product: down_t [F, O] and the same in tiles, down_bias [O] with the means folded in, mean [F]."""

    down_t: Tensor
    down_tiled: Tensor
    down_bias: Tensor
    mean: Tensor


def pack_down(down: Tensor, bias: Tensor | None, mean: Tensor | None, units: int, half: bool = False) -> Down:
    """From an nn.Linear's weight [O, F] and bias; mean [F] or None for zero. half: rounded to bfloat16."""
    matrix = rounded(frozen(down, "down", (None, units)), half)
    mean = frozen(mean, "mean", (units,))
    down_t = matrix.t().contiguous()
    folded = fold(frozen(bias, "down_bias", (matrix.shape[0],)), matrix, mean)
    return Down(down_t, tile_columns(down_t), folded, mean)


class HalfMatrices(NamedTuple):
    """The matrices of a block in bfloat16, for the kernels that stream them: half the bytes of the float32 ones."""

    up: Tensor | None
    linear: Tensor | None
    down_t: Tensor
    down_tiled: Tensor


def rounded(value: Tensor, half: bool) -> Tensor:
    """float32, rounded to what bfloat16 can hold if `half`: every kernel and the oracle then use the same numbers."""
    return value.bfloat16().float() if half else value


def halves(up: Tensor | None, linear: Tensor | None, down: Down, half: bool) -> HalfMatrices | None:
    """The bfloat16 copies of rounded matrices, or None."""
    if not half:
        return None
    first, second = (None if value is None else value.bfloat16() for value in (up, linear))
    return HalfMatrices(first, second, down.down_t.bfloat16(), down.down_tiled.bfloat16())
