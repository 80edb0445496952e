"""Channel-gated convolutions: a residual block whose middle channels a pooled gate switches off, per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swan_runtime.activations import MetaAcon, conv_activation
from swan_runtime.gate import Gate, PooledChannelGate
from swan_runtime.kernels.conv_weights import Tail
from swan_runtime.layers import GatedLayer, Spend
from swan_runtime.layout import Layout
from swan_runtime.plan import HardPlan, Plan


class GatedConv(GatedLayer):
    """conv2(gated act(norm(conv1(x)))): skips conv1's output and conv2's input channels. x: [B, C, H, W].

    activation: relu, acon_a, acon_b, acon_c or meta_acon (whose switch reads the block's input, not its own).
    gate: reads x pooled over space; default a PooledChannelGate.
    """

    def __init__(self, conv1: nn.Conv2d, conv2: nn.Conv2d, activation: str = "relu", gate: Gate | None = None) -> None:
        channels = conv1.out_channels
        super().__init__(channels, gate or PooledChannelGate(conv1.in_channels, channels))
        self.activation = activation
        self.conv1 = conv1
        self.norm: nn.Module = nn.BatchNorm2d(channels)
        self.act = conv_activation(activation, channels, conv1.in_channels)
        self.conv2 = conv2
        self.tail: Tail | None = None  # what the packed copy does behind conv2; set with it

    @property
    def unit_macs(self) -> int:
        """For a 1x1 image; `unit_macs_at` gives the real figure."""
        return self.unit_macs_at(1, 1)

    def unit_macs_at(self, height: int, width: int) -> int:
        """MACs of one active channel for an input of height x width pixels."""
        h1, w1 = conv_size(self.conv1, height, width)
        h2, w2 = conv_size(self.conv2, h1, w1)
        area1, area2 = self.conv1.kernel_size, self.conv2.kernel_size
        first = h1 * w1 * self.conv1.in_channels * area1[0] * area1[1]
        return first + h2 * w2 * self.conv2.out_channels * area2[0] * area2[1]

    @property
    def switch_macs(self) -> int:
        """MACs of meta-ACON's switch per sample; counted as fixed."""
        return self.act.macs if isinstance(self.act, MetaAcon) else 0

    def unit_values(self, x: Tensor) -> Tensor:
        """[B, units, H', W']."""
        return self._activate(x)

    def _activate(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.conv1(x))
        out: Tensor = self.act(hidden, x) if isinstance(self.act, MetaAcon) else self.act(hidden)
        return out

    def spend(self, x: Tensor) -> Spend:
        ones = [1] * x.shape[0]
        return Spend(None, ones, ones, ones, self.unit_macs_at(x.shape[2], x.shape[3]), self.switch_macs)

    def forward(self, x: Tensor, plan: Plan | None = None) -> Tensor:
        """[B, C, H, W] -> [B, O, H2, W2]; plan None: every channel runs."""
        if plan is None:
            out: Tensor = self.conv2(self._activate(x))
            return out
        packed = self.packed_for(plan)
        if packed is not None and isinstance(plan, HardPlan):
            return packed.run(self, x, plan, Layout([1] * x.shape[0], True, None, x.shape[:1], x.device))
        hidden = self._activate(x)
        gates = self.open_gates(plan, self.gate.scores(x), self.spend(x))
        mean = self.mean.to(hidden.dtype)[:, None, None]  # under autocast float32 would widen the whole image
        gated: Tensor = self.conv2(torch.addcmul(mean, gates.to(hidden.dtype)[:, :, None, None], hidden - mean))
        return gated


class GatedResidual(nn.Module, ABC):
    """act(norm(core(x)) + shortcut(x)) around a GatedConv: the middle channels are gated, the residual stream is not.

    harden_ packs norm, shortcut and ReLU with the core where the kernels serve them.
    """

    core: nn.Module  # a GatedConv; an ungated copy of the network has a plain module in its place
    shortcut: nn.Module

    @property
    @abstractmethod
    def norm_after(self) -> nn.Module:
        """The norm behind the core."""

    @property
    def act_after(self) -> nn.Module | None:
        """The block's last activation; None = ReLU."""
        return None

    def forward(self, x: Tensor, plan: Plan | None = None) -> Tensor:
        """[B, C, H, W] -> [B, O, H2, W2]."""
        y = self.core(x, plan)
        packed = self.core if isinstance(self.core, GatedConv) and self.core.packed_for(plan) is not None else None
        tail = packed.tail if packed is not None else None
        if packed is None:
            y = self.norm_after(y)
        if tail is None:
            y = y + self.shortcut(x)
        if self.act_after is not None:
            return self.act_after(y)  # type: ignore[no-any-return]  # a Module's call is untyped
        return y if tail is not None and tail.relu else F.relu(y)


class GatedConvBlock(GatedResidual):
    """Basic residual block: two 3x3 convolutions; the last activation is the core's kind.

    The shortcut is the identity, or a strided 1x1 convolution with BatchNorm where the shape changes.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, activation: str = "relu", gate: Gate | None = None
    ) -> None:
        super().__init__()
        conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.core = GatedConv(conv1, conv2, activation, gate)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.act = conv_activation(activation, out_channels) if activation != "relu" else None

    @property
    def norm_after(self) -> nn.Module:
        return self.norm2

    @property
    def act_after(self) -> nn.Module | None:
        return self.act


def conv_size(conv: nn.Conv2d, height: int, width: int) -> tuple[int, int]:
    """Output height and width of a convolution."""
    sizes = []
    for i, size in enumerate((height, width)):
        padding, dilation, kernel, stride = (
            int(conv.padding[i]), conv.dilation[i], conv.kernel_size[i], conv.stride[i],
        )  # fmt: skip
        sizes.append((size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)
    return sizes[0], sizes[1]
