"""The pooled channel gate on frozen weights, with meta-ACON's switch beside it: both read the same mean over space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from swan_runtime.kernels.packing import frozen

LANES = 16  # the native kernel's products are padded to it


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """Two linear layers, transposed: first [C, r], first_bias [r], second [r, K], second_bias [K]."""

    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor

    @staticmethod
    def pack(first: tuple[Tensor, Tensor | None], second: tuple[Tensor, Tensor | None]) -> Bottleneck:
        """From two nn.Linear as (weight, bias or None): first [r, C], second [K, r]."""
        width, units = first[0].shape[0], second[0].shape[0]
        return Bottleneck(
            frozen(first[0].t(), "first", (None, width)),
            frozen(first[1], "first_bias", (width,)),
            frozen(second[0].t(), "second", (width, units)),
            frozen(second[1], "second_bias", (units,)),
        )

    @property
    def width(self) -> int:
        return self.first.shape[1]

    def padded(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same with r (columns only) and K rounded up to LANES with zeros."""
        more, units = -self.width % LANES, -self.second.shape[1] % LANES
        first, first_bias = F.pad(self.first, (0, more)), F.pad(self.first_bias, (0, more))
        return first, first_bias, F.pad(self.second, (0, units)), F.pad(self.second_bias, (0, units))


@dataclass(frozen=True, eq=False)
class ChannelGateWeights:
    """score: mean over space -> linear -> ReLU -> linear -> one score a channel. switch: the same without ReLU, then a
    sigmoid -> meta-ACON's beta a channel; None for other activations."""

    score: Bottleneck
    switch: Bottleneck | None = None
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def inputs(self) -> int:
        return self.score.first.shape[0]

    @property
    def units(self) -> int:
        return self.score.second.shape[1]


class ChannelScores(NamedTuple):
    """scores [B, K]; beta [B, K] or None."""

    scores: Tensor
    beta: Tensor | None


def channel_scores(x: Tensor, gate: ChannelGateWeights) -> ChannelScores:
    """x [B, C, H, W]. The oracle, and what serves where there is no native library."""
    pooled, score, switch = x.mean((2, 3)), gate.score, gate.switch
    hidden = torch.addmm(score.first_bias, pooled, score.first).relu_()
    scores = torch.addmm(score.second_bias, hidden, score.second)
    if switch is None:
        return ChannelScores(scores, None)
    linear = torch.addmm(switch.first_bias, pooled, switch.first)
    return ChannelScores(scores, torch.addmm(switch.second_bias, linear, switch.second).sigmoid_())
