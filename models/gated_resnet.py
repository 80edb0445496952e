"""fashion-resnet: residual blocks whose middle channels are gated per sample (Bejnordi et al., ICLR 2020)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swan_runtime.conv import GatedConv, GatedResidual
from swan_runtime.gate import PooledChannelGate
from swan_runtime.layers import name_layers_
from swan_runtime.pack import fold_norm
from swan_runtime.plan import Plan

SIDE = 28


@dataclass(frozen=True, slots=True)
class GatedResNetConfig:
    """One block a stage; each stage after the first halves the image. Middle channels = width x expansion.

    activation: of the gated channels: relu, acon_c or meta_acon. mean, std: of the training pixels in 0..1.
    folded: for inference, the norms behind the stem, the blocks and the shortcuts are part of their convolutions.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    expansion: int = 6
    activation: str = "meta_acon"
    gate_width: int = 16
    num_classes: int = 10
    mean: float = 0.2860
    std: float = 0.3530
    folded: bool = False


class ResidualBlock(GatedResidual):
    """relu(norm(core(x)) + shortcut(x)): the core's middle channels are the units; the residual stream is untouched."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: GatedResNetConfig) -> None:
        super().__init__()
        middle = out_channels * config.expansion
        gate = PooledChannelGate(in_channels, middle, config.gate_width)
        conv1 = nn.Conv2d(in_channels, middle, 3, stride, 1, bias=False)
        conv2 = nn.Conv2d(middle, out_channels, 3, 1, 1, bias=config.folded)
        self.core = GatedConv(conv1, conv2, config.activation, gate)
        self.norm = _norm(out_channels, config)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=config.folded)
            self.shortcut = nn.Sequential(projection, _norm(out_channels, config))

    @property
    def norm_after(self) -> nn.Module:
        return self.norm


class GatedResNet(nn.Module):
    """Pixels [B, 784] in 0..1 -> logits [B, 10]. Stem 5x5 stride 2, then blocks at 14x14, 7x7 and 4x4."""

    def __init__(self, config: GatedResNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.stem = nn.Conv2d(1, widths[0], 5, 2, 2, bias=config.folded)
        self.stem_norm = _norm(widths[0], config)
        self.blocks = nn.ModuleList(
            ResidualBlock(widths[max(i - 1, 0)], width, 2 if i else 1, config) for i, width in enumerate(widths)
        )
        self.head = nn.Linear(widths[-1], config.num_classes)
        name_layers_(self)

    def forward(self, pixels: Tensor, plan: Plan | None = None) -> Tensor:
        x = ((pixels - self.config.mean) / self.config.std).view(-1, 1, SIDE, SIDE)
        x = F.relu(self.stem_norm(self.stem(x.to(memory_format=torch.channels_last))))
        for block in self.blocks:
            x = block(x, plan)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def folded(network: GatedResNet) -> GatedResNet:
    """The same function with fewer steps: a copy whose BatchNorms behind convolutions are folded into them."""
    network.eval()
    copy = GatedResNet(replace(network.config, folded=True)).eval()
    state = network.state_dict()
    copy.load_state_dict({name: value for name, value in state.items() if name in copy.state_dict()}, strict=False)
    pairs = [("stem", "stem_norm")]
    for i, block in enumerate(network.blocks):
        assert isinstance(block, ResidualBlock)
        pairs.append((f"blocks.{i}.core.conv2", f"blocks.{i}.norm"))
        if isinstance(block.shortcut, nn.Sequential):
            pairs.append((f"blocks.{i}.shortcut.0", f"blocks.{i}.shortcut.1"))
    for conv_name, norm_name in pairs:
        source, target = network.get_submodule(conv_name), copy.get_submodule(conv_name)
        assert isinstance(source, nn.Conv2d) and isinstance(target, nn.Conv2d) and target.bias is not None
        weight, bias = fold_norm(source.weight, source.bias, network.get_submodule(norm_name))
        target.weight.data.copy_(weight)
        target.bias.data.copy_(bias)
    return copy


def _norm(channels: int, config: GatedResNetConfig) -> nn.Module:
    return nn.Identity() if config.folded else nn.BatchNorm2d(channels)
