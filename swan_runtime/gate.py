"""Gates: an input -> one score per unit. A unit runs iff its score is over the threshold; the plan holds thresholds."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swan_runtime.activations import ELEMENTWISE

OPEN_BIAS = 2.0
"""Gates start open: with threshold 0 and temperature 1 a new unit's soft gate is about 0.88."""


class Gate(nn.Module, ABC):
    """scores(x) -> [masks, units]; macs: cost of scoring one mask; scale: spread of the scores (buffer, scalar)."""

    scale: Tensor

    def __init__(self, num_units: int) -> None:
        super().__init__()
        self.num_units = num_units
        self.register_buffer("scale", torch.ones(()))

    @abstractmethod
    def scores(self, x: Tensor) -> Tensor:
        """x: what the gate reads, one entry per mask -> [masks, units]."""

    def mask(self, scores: Tensor, threshold: Tensor | float) -> Tensor:
        """bool, True = active. threshold: a number or [masks]."""
        limit = threshold[:, None] if isinstance(threshold, Tensor) and threshold.dim() == 1 else threshold
        return scores > limit

    @property
    @abstractmethod
    def macs(self) -> int:
        """MACs to score one mask."""

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x)


class LowRankGate(Gate):
    """The SWAN unit gate: rank-r projection shared by the layer, then one row per unit; r (D + F) MACs.

    score "logit": z = expand (project x) + bias, learned directly (bias starts at OPEN_BIAS).
    score "deviation": |activation(z) - center| * norm, z being a low-rank prediction of the unit's pre-activation:
    how far the unit would be from its mean, times how much that moves the output. Needs no training.
    """

    center: Tensor
    norm: Tensor

    def __init__(
        self, in_features: int, num_units: int, rank: int, score: str = "logit", activation: str = "relu"
    ) -> None:
        super().__init__(num_units)
        self.in_features, self.rank, self.score, self.activation = in_features, rank, score, activation
        self.project = nn.Parameter(torch.randn(rank, in_features) / in_features**0.5)
        self.expand = nn.Parameter(torch.randn(num_units, rank) / rank**0.5)
        self.bias = nn.Parameter(torch.full((num_units,), OPEN_BIAS if score == "logit" else 0.0))
        self.register_buffer("center", torch.zeros(num_units))
        self.register_buffer("norm", torch.ones(num_units))

    @property
    def macs(self) -> int:
        return self.rank * (self.in_features + self.num_units)

    def scores(self, x: Tensor) -> Tensor:
        predicted = F.linear(F.linear(x, self.project), self.expand, self.bias)
        if self.score == "logit":
            return predicted
        return (ELEMENTWISE[self.activation](predicted) - self.center).abs() * self.norm


class PooledChannelGate(Gate):
    """Batch-shaped channel gate (Bejnordi et al., ICLR 2020): GAP, FC(width), BN, ReLU, FC(channels); per sample."""

    def __init__(self, in_channels: int, num_units: int, width: int = 16, batch_norm: bool = True) -> None:
        super().__init__(num_units)
        self.reduce = nn.Linear(in_channels, width)
        self.norm: nn.Module = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
        self.expand = nn.Linear(width, num_units)
        nn.init.constant_(self.expand.bias, OPEN_BIAS)

    @property
    def macs(self) -> int:
        return self.reduce.weight.numel() + self.expand.weight.numel()

    def scores(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W] or already pooled [B, C]."""
        pooled = x.flatten(2).mean(2) if x.dim() > 2 else x
        scores: Tensor = self.expand(F.relu(self.norm(self.reduce(pooled))))
        return scores


class MagnitudeGate(Gate):
    """CATS: |branch value| itself is the score; nothing to learn, nothing extra to compute.

    `weight` [units] (buffer) rescales the scores, e.g. by the norm of the unit's down row; ones reproduce CATS.
    """

    weight: Tensor

    def __init__(self, num_units: int) -> None:
        super().__init__(num_units)
        self.register_buffer("weight", torch.ones(num_units))

    @property
    def macs(self) -> int:
        return 0

    def scores(self, x: Tensor) -> Tensor:
        return x.abs() * self.weight


class InputMagnitudeGate(MagnitudeGate):
    """TEAL / R-Sparse: units are the *inputs* of a linear layer; score = |x_i| (times `weight`).

    path_macs: cost per mask of the low-rank path that stands in for dropped inputs; it is what this gating costs.
    """

    def __init__(self, num_units: int, path_macs: int = 0) -> None:
        super().__init__(num_units)
        self.path_macs = path_macs

    @property
    def macs(self) -> int:
        return self.path_macs
