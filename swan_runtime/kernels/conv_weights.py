"""A residual block's two convolutions around gated channels, and what follows them, packed for the kernels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from swan_runtime.errors import InvalidInputError
from swan_runtime.kernels.activations import CODES, check_activation
from swan_runtime.kernels.packing import frozen

RUN = 16  # floats; the native kernel's runs of first weights are a multiple of it, whatever the CPU's vectors
PANEL = 32  # outputs that lie together in the native kernel's second weights: two AVX-512 vectors


@dataclass(frozen=True, eq=False)
class Acon:
    """Per-channel ACON-C parameters, each [K]; beta can be replaced per sample at the call (meta-ACON)."""

    p1: Tensor
    p2: Tensor
    beta: Tensor


@dataclass(frozen=True, eq=False)
class Tail:
    """What a residual block does behind its second convolution: add its input, then ReLU where `relu` is set.

    shortcut: None = the input as it is; else weight [O, C] and bias [O] of a 1x1 convolution with `stride`.
    """

    shortcut: tuple[Tensor, Tensor] | None = None
    stride: int = 1
    relu: bool = True

    def apply(self, y: Tensor, x: Tensor) -> Tensor:
        """y [B, O, H'', W''] of the second convolution, x [B, C, H, W] of the block -> the block's output."""
        if self.shortcut is not None:
            weight, bias = self.shortcut
            x = F.conv2d(x, weight[:, :, None, None], bias, stride=self.stride)
        return F.relu(y + x) if self.relu else y + x


@dataclass(frozen=True, eq=False)
class ConvWeights:
    """A residual block's two convolutions around K gated middle channels (groups 1, dilation 1, second stride 1).

    up [K, C, kh, kw], up_bias [K] (BatchNorm folded by the caller), stride and padding of the first convolution;
    down_t [K, kh, kw, O] with its own padding; down_bias [O] not folded: see `fold`; mean [K].
    tail: None = y is what the second convolution yields.
    """

    up: Tensor
    up_bias: Tensor
    down_t: Tensor
    down_bias: Tensor
    mean: Tensor
    activation: str
    stride: int
    padding: int
    down_padding: int
    acon: Acon | None = None
    tail: Tail | None = None
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def pack(
        up: tuple[Tensor, Tensor | None],
        down: tuple[Tensor, Tensor | None],
        mean: Tensor | None = None,
        *,
        activation: str,
        stride: int = 1,
        padding: tuple[int, int] = (1, 1),
        acon: Acon | None = None,
        tail: Tail | None = None,
    ) -> ConvWeights:
        """From two nn.Conv2d as (weight, bias or None): up [K, C, kh, kw], down [O, K, kh, kw]; padding: (up, down)."""
        check_activation(activation, tuple(CODES))
        matrix = frozen(up[0], "up", (None, None, None, None))
        units = matrix.shape[0]
        second = frozen(down[0], "down", (None, units, None, None))
        if (activation == "acon") != (acon is not None):
            raise InvalidInputError("acon", "parameters exactly when activation is 'acon'", activation)
        if acon is not None:
            acon = Acon(
                *(frozen(value, name, (units,)) for name, value in zip(("p1", "p2", "beta"), _acon(acon), strict=True))
            )
        if tail is not None and tail.shortcut is not None:
            weight = frozen(tail.shortcut[0], "shortcut", (second.shape[0], matrix.shape[1]))
            tail = replace(tail, shortcut=(weight, frozen(tail.shortcut[1], "shortcut_bias", (second.shape[0],))))
        return ConvWeights(
            up=matrix,
            up_bias=frozen(up[1], "up_bias", (units,)),
            down_t=second.permute(1, 2, 3, 0).contiguous(),
            down_bias=frozen(down[1], "down_bias", (second.shape[0],)),
            mean=frozen(mean, "mean", (units,)),
            activation=activation,
            stride=stride,
            padding=padding[0],
            down_padding=padding[1],
            acon=acon,
            tail=tail,
        )

    @property
    def units(self) -> int:
        return self.up.shape[0]

    @property
    def inputs(self) -> int:
        return self.up.shape[1]

    @property
    def outputs(self) -> int:
        return self.down_t.shape[3]

    def down(self) -> Tensor:
        """The second convolution's weight as torch wants it, [O, K, kh, kw]."""
        if "down" not in self.cache:
            self.cache["down"] = self.down_t.permute(3, 0, 1, 2).contiguous()
        value: Tensor = self.cache["down"]
        return value

    @property
    def centred(self) -> bool:
        """Whether every mean is 0: an off channel then contributes nothing."""
        if "centred" not in self.cache:
            self.cache["centred"] = not bool(self.mean.any())
        value: bool = self.cache["centred"]
        return value

    def middle_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width between the two convolutions for an input of that size."""
        rows = (height + 2 * self.padding - self.up.shape[2]) // self.stride + 1
        columns = (width + 2 * self.padding - self.up.shape[3]) // self.stride + 1
        return rows, columns

    def fold(self, height: int, width: int) -> Tensor:
        """[O, H', W']: what the block yields with every unit off, for a middle map of height x width.

        A map, not a constant per channel: at the border the zero padding cuts off part of the mean's contribution.
        """
        key = ("fold", height, width)
        if key not in self.cache:
            plane = self.mean.view(1, -1, 1, 1).expand(1, -1, height, width)
            self.cache[key] = F.conv2d(plane, self.down(), self.down_bias, padding=self.down_padding)[0].contiguous()
        value: Tensor = self.cache[key]
        return value

    def up_runs(self) -> Tensor:
        """[K, kh, kw * C]: a channel's weights as the native kernel reads them, input channels last.

        Where C is not a multiple of RUN, the floats of a kernel row are rounded up with zeros.
        """
        runs = self.up.permute(0, 2, 3, 1).flatten(2)
        return F.pad(runs, (0, 0 if self.inputs % RUN == 0 else -runs.shape[2] % RUN)).contiguous()

    def down_panels(self) -> Tensor:
        """[ceil(O / PANEL), K, kh', kw', PANEL], outputs rounded up with zeros."""
        return panels(self.down_t.flatten(1, 2))

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result for an input of that size."""
        rows, columns = self.middle_size(height, width)
        more = 2 * self.down_padding + 1
        return rows + more - self.down_t.shape[1], columns + more - self.down_t.shape[2]


def panels(weight: Tensor) -> Tensor:
    """[K, taps, O] -> [ceil(O / PANEL), K, taps, PANEL], outputs rounded up with zeros."""
    padded = F.pad(weight, (0, -weight.shape[2] % PANEL))
    return padded.view(*weight.shape[:2], -1, PANEL).permute(2, 0, 1, 3).contiguous()


def _acon(acon: Acon) -> tuple[Tensor, Tensor, Tensor]:
    return acon.p1, acon.p2, acon.beta
