"""Which positions of a layer's input belong to which request, and which positions share one mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from swan_runtime.errors import InvalidInputError


@dataclass(frozen=True)
class Layout:
    """A batch flattened to positions [N, D].

    lengths: positions of each row. single: position i is row i.
    valid: [B, T] bool of a padded input, None otherwise. shape: the input's leading dimensions.
    """

    lengths: list[int]
    single: bool
    valid: Tensor | None
    shape: torch.Size
    device: torch.device

    @cached_property
    def rows(self) -> Tensor | None:
        """[N] batch row of each position; None: position i is row i. Made when a layer asks: most kernels need none."""
        if self.single:
            return None
        counts = torch.tensor(self.lengths, dtype=torch.int64, device=self.device)
        return torch.arange(len(counts), device=self.device).repeat_interleave(counts)

    @staticmethod
    def flatten(x: Tensor, lengths: Sequence[int] | None = None) -> tuple[Tensor, Layout]:
        """x -> (positions [N, D], layout).

        x: [B, D] rows; [B, ..., D] rows of tokens or pixels; [B, T, D] with `lengths`: padded, only the first
        lengths[b] tokens count; [N, D] with `lengths`: the tokens of all rows one after the other, no padding.
        """
        lead = x.shape[:-1]
        if not lead or (len(lead) > 2 and lengths is not None):
            raise InvalidInputError("x", "[B, D] or [B, T, D]", str(tuple(x.shape)))
        if lengths is None:
            if len(lead) == 1:
                return x, Layout([1] * lead[0], True, None, lead, x.device)
            per_row = math.prod(lead[1:])
            return x.reshape(-1, x.shape[-1]), Layout([per_row] * lead[0], False, None, lead, x.device)
        if len(lead) == 1:
            if sum(lengths) != lead[0]:
                raise InvalidInputError("lengths", f"a sum of {lead[0]} tokens", str(sum(lengths)))
            return x, Layout(list(lengths), False, None, lead, x.device)
        counts = torch.as_tensor(lengths, device=x.device)
        if len(counts) != lead[0] or int(counts.max()) > lead[1]:
            raise InvalidInputError("lengths", f"{lead[0]} values of at most {lead[1]}", str(list(lengths)))
        valid = torch.arange(lead[1], device=x.device) < counts[:, None]
        return x[valid], Layout(list(lengths), False, valid, lead, x.device)

    def restore(self, y: Tensor) -> Tensor:
        """positions [N, O] -> the input's leading shape; padding positions become zero."""
        if self.valid is None:
            return y.reshape(*self.shape, y.shape[-1])
        out = y.new_zeros(*self.shape, y.shape[-1])
        out[self.valid] = y
        return out

    def mean(self, values: Tensor, square: bool = False) -> Tensor:
        """values [N, F] -> [B, F]: mean over each row's positions; square: root of the mean square."""
        if self.rows is None:
            return values
        values = values.square() if square else values
        sums = values.new_zeros(len(self.lengths), values.shape[1]).index_add(0, self.rows, values)
        means = sums / torch.tensor(self.lengths, dtype=values.dtype, device=values.device).clamp_min(1)[:, None]
        return means.clamp_min(1e-20).sqrt() if square else means
