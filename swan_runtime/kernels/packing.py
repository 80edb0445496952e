"""How packed weights are laid out and folded."""

from __future__ import annotations

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
