"""Plain networks without gates: the shapes that dense teachers, static rivals and compact exports have."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.gated_encoder import EncoderLayer, GatedEncoder, GatedEncoderConfig
from models.gated_resnet import GatedResNet, GatedResNetConfig, ResidualBlock, folded
from models.swan_mlp import DenseMLP, SwanMLP, SwanMLPConfig, adopt_
from swan_runtime.activations import MetaAcon
from swan_runtime.conv import GatedConv
from swan_runtime.dense_blocks import UnitUse, dense_layer
from swan_runtime.layers import GatedMLP, gated_layers


class Ungated(nn.Module):
    """A plain block in a gated one's place: takes the same arguments, reads only the input."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, plan: None = None, lengths: Any = None) -> Tensor:
        out: Tensor = self.block(x)
        return out


class DenseFFN(nn.Module):
    """down(gelu(up(x)))."""

    def __init__(self, layer: GatedMLP) -> None:
        super().__init__()
        self.up, self.down = layer.up, layer.down

    def forward(self, x: Tensor, plan: None = None, lengths: Any = None) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(x)))
        return out


class DenseCore(nn.Module):
    """conv2(act(norm(conv1(x)))); meta-ACON's switch reads x, as in the gated block."""

    def __init__(self, layer: GatedConv) -> None:
        super().__init__()
        self.conv1, self.norm, self.act, self.conv2 = layer.conv1, layer.norm, layer.act, layer.conv2

    def forward(self, x: Tensor, plan: None = None) -> Tensor:
        hidden = self.norm(self.conv1(x))
        hidden = self.act(hidden, x) if isinstance(self.act, MetaAcon) else self.act(hidden)
        out: Tensor = self.conv2(hidden)
        return out


class PaddedEncoder(GatedEncoder):
    """The sentence encoder for padded batches: ids [B, T], valid [B, T] bool -> embeddings [B, 384]. Needs no lists.

    So torch.export can take it, and a user's own transformer would look like this.
    """

    def forward(self, ids: Tensor, valid: Tensor) -> Tensor:  # type: ignore[override]
        x = self.norm(self.tokens(ids) + self.positions.weight[: ids.shape[1]] + self.kind)  # [B, T, D]
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            x = layer.attention_norm(x + _attend(layer, x, valid))
            x = layer.ffn_norm(x + layer.ffn(x))
        weight = valid[..., None].to(x.dtype)
        return F.normalize((x * weight).sum(1) / weight.sum(1), dim=-1)

    fixed_macs = None  # type: ignore[assignment]  # rows of a padded batch are alike: the general count is right

    @staticmethod
    def around(network: GatedEncoder) -> PaddedEncoder:
        """The same modules with this forward."""
        padded = PaddedEncoder(GatedEncoderConfig(vocabulary=1, max_positions=1, width=1, num_layers=0, num_heads=1))
        padded.config, padded.kind = network.config, network.kind
        for name, child in network.named_children():
            setattr(padded, name, child)
        return padded.eval()


def _attend(layer: EncoderLayer, x: Tensor, valid: Tensor) -> Tensor:
    rows, longest, width = x.shape
    heads = layer.attention.num_heads
    qkv = layer.attention.qkv(x).view(rows, longest, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=valid[:, None, None, :])
    out: Tensor = layer.attention.out(mixed.transpose(1, 2).reshape(rows, longest, width))
    return out


def dense_mlp(**settings: Any) -> DenseMLP:
    """fashion-mlp without gates. settings: of SwanMLPConfig."""
    return DenseMLP(SwanMLPConfig(**settings))


def gated_resnet(**settings: Any) -> GatedResNet:
    """settings: of GatedResNetConfig, as JSON has them."""
    widths = tuple(settings.get("widths", GatedResNetConfig().widths))
    return GatedResNet(GatedResNetConfig(**{**settings, "widths": widths}))


def dense_resnet(**settings: Any) -> GatedResNet:
    """fashion-resnet with plain cores."""
    network = gated_resnet(**settings)
    for block in network.blocks:
        assert isinstance(block, ResidualBlock) and isinstance(block.core, GatedConv)
        block.core = DenseCore(block.core)
    return network


def gated_encoder(**settings: Any) -> GatedEncoder:
    """settings: of GatedEncoderConfig."""
    return GatedEncoder(GatedEncoderConfig(**settings))


def padded_encoder(**settings: Any) -> PaddedEncoder:
    """minilm-embedder with plain feed-forward blocks, for padded batches: (ids, valid) -> embeddings."""
    network = gated_encoder(**settings)
    for layer in network.layers:
        assert isinstance(layer, EncoderLayer)
        layer.ffn = DenseFFN(layer.ffn)  # type: ignore[assignment]
    return PaddedEncoder.around(network)


def swap_gated(network: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of `network` with plain blocks in place of the gated layers of these names."""
    swapped = copy.deepcopy(network).eval()
    for name, block in replacements.items():
        parent, _, child = name.rpartition(".")
        setattr(swapped.get_submodule(parent), child, Ungated(block))
    return swapped.eval().requires_grad_(False)


@torch.no_grad()
def ungated(network: nn.Module) -> nn.Module:
    """A copy of `network` in which every unit runs in plain torch layers, norms folded: dense as fast as torch is."""
    blocks = {}
    for name, layer in gated_layers(network).items():
        every = torch.ones(layer.num_units, dtype=torch.int64)
        blocks[name], _ = dense_layer(layer, UnitUse(every, 1, torch.zeros(layer.num_units, dtype=torch.bool)), 0.0)
    return swap_gated(network, blocks)


def without_gates(network: nn.Module) -> nn.Module:
    """`ungated` for the networks of this project, with every norm folded and no dropout left."""
    if isinstance(network, DenseMLP):
        network = adopt_(SwanMLP(network.config), network)
    if isinstance(network, GatedResNet) and not network.config.folded:
        network = folded(network)
    return ungated(network)
