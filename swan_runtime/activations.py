"""ACON-A/B/C and meta-ACON (Ma et al., CVPR 2021, arXiv 2009.04759): activations with a learned switch to linear."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _per_channel(values: Tensor) -> Tensor:
    """[C] or [B, C] -> broadcastable to images [B, C, H, W]."""
    return values[..., None, None]


def acon(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor) -> Tensor:
    """(p1 - p2) x sigmoid(beta (p1 - p2) x) + p2 x, the paper's equation 6; all arguments broadcast to x.

    Computed in x's type: under autocast float32 parameters would otherwise widen every intermediate of the image.
    """
    slope, p2 = (p1 - p2).to(x.dtype), p2.to(x.dtype)
    difference = slope * x
    return torch.addcmul(p2 * x, difference, torch.sigmoid(beta.to(x.dtype) * difference))


class AconA(nn.Module):
    """x sigmoid(beta x): p1 = 1, p2 = 0 (Swish). x: [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(_per_channel(self.beta) * x)


class AconB(nn.Module):
    """(1 - p) x sigmoid(beta (1 - p) x) + p x: smooth maximum of x and p x (PReLU's family)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((channels,), 0.25))
        self.beta = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        p = _per_channel(self.p)
        return acon(x, torch.ones_like(p), p, _per_channel(self.beta))


class AconC(nn.Module):
    """Smooth maximum of p1 x and p2 x with learned p1, p2, beta per channel. beta = 0 is exactly linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.p1 = nn.Parameter(torch.randn(channels))
        self.p2 = nn.Parameter(torch.randn(channels))
        self.beta = nn.Parameter(torch.ones(channels))

    def switching_factor(self, context: Tensor) -> Tensor:
        """beta for each row of the context: [B, C]; the same for all rows here."""
        return self.beta.expand(context.shape[0], -1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return acon(x, _per_channel(self.p1), _per_channel(self.p2), _per_channel(self.beta))


class MetaAcon(nn.Module):
    """ACON-C whose beta is computed per input: beta = sigmoid(BN(FC(BN(FC(GAP(context)))))).

    The paper's context is the activation's own input. A gated block passes its *own* input instead, because it never
    computes the channels that it skips; `context_channels` is that input's channel count.
    """

    def __init__(self, channels: int, context_channels: int | None = None, reduction: int = 16) -> None:
        super().__init__()
        width = max(reduction, channels // reduction)
        self.p1 = nn.Parameter(torch.randn(channels))
        self.p2 = nn.Parameter(torch.randn(channels))
        self.fc1 = nn.Linear(context_channels or channels, width)
        self.bn1 = nn.BatchNorm1d(width)
        self.fc2 = nn.Linear(width, channels)
        self.bn2 = nn.BatchNorm1d(channels)

    @property
    def macs(self) -> int:
        """MACs of the switch for one row."""
        return self.fc1.weight.numel() + self.fc2.weight.numel()

    def switching_factor(self, context: Tensor) -> Tensor:
        """context [B, C', H, W] -> beta [B, C] in (0, 1); near 0 = this channel acts linearly for this request."""
        beta: Tensor = torch.sigmoid(self.bn2(self.fc2(self.bn1(self.fc1(context.mean((2, 3)))))))
        return beta

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        beta = self.switching_factor(x if context is None else context)
        return acon(x, _per_channel(self.p1), _per_channel(self.p2), _per_channel(beta))


def conv_activation(name: str, channels: int, context_channels: int | None = None) -> nn.Module:
    """A channel activation by name: relu, acon_a, acon_b, acon_c or meta_acon."""
    if name == "meta_acon":
        return MetaAcon(channels, context_channels)
    simple = {"acon_a": AconA, "acon_b": AconB, "acon_c": AconC}
    return simple[name](channels) if name in simple else nn.ReLU()


ELEMENTWISE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "identity": torch.clone,
}
"""Elementwise activations that gates and kernels know by name; gelu is the exact (erf) one."""
