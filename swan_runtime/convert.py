"""harden_: pack every gated layer's weights for the kernels. soften_: forget them."""

from __future__ import annotations

from torch import nn

from swan_runtime.conv import GatedConv, GatedConvBlock
from swan_runtime.layers import GatedMLP, gated_layers, name_layers_
from swan_runtime.pack import PackedConv, PackedMLP


def harden_(model: nn.Module) -> nn.Module:
    """Pack once for inference, in eval mode; the state_dict does not change, and training drops the packed copies.

    A layer whose gate or shape the kernels do not serve keeps running on the reference path.
    """
    model.eval()
    name_layers_(model)
    blocks = {id(block.core): block for block in model.modules() if isinstance(block, GatedConvBlock)}
    for layer in gated_layers(model).values():
        if isinstance(layer, GatedConv):
            block = blocks.get(id(layer))
            layer.packed = PackedConv.pack(layer, block.norm2 if block else None)
        elif isinstance(layer, GatedMLP):
            layer.packed = PackedMLP.pack(layer)
    return model


def soften_(model: nn.Module) -> nn.Module:
    """Drop the packed weights: every plan runs on the reference path again."""
    for layer in gated_layers(model).values():
        layer.packed = None
    return model
