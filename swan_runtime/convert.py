"""gate_: give a trained dense model gates. harden_: pack weights for the kernels. soften_: forget them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from swan_runtime.bind import GatedModel
from swan_runtime.calibrate import Inputs
from swan_runtime.conv import GatedConv, GatedResidual
from swan_runtime.errors import InvalidInputError
from swan_runtime.find import Adapter, BlockConfig, replace_blocks_
from swan_runtime.fit import fit_gates_
from swan_runtime.input_gate import GatedInputLinear
from swan_runtime.layers import GatedGLU, GatedMLP, gated_layers, name_layers_
from swan_runtime.pack import PackedMLP
from swan_runtime.pack_conv import PackedConv
from swan_runtime.pack_magnitude import PackedCats, PackedInputs
from swan_runtime.served import ServedLinear


def gate_(
    model: nn.Module,
    batches: Sequence[Inputs],
    rank: int = 16,
    granularity: str = "token",
    glu: str = "lowrank",
    adapters: Mapping[type[nn.Module], Adapter] | None = None,
) -> GatedModel:
    """Gate the blocks of a *trained dense* model without training; the model is taken over and must not be used alone.

    batches: tuples of the model's positional inputs, rows first, from the data it will see. rank: of the gates.
    granularity: a mask per "token", or per "request" where a block keeps its width. glu: "lowrank" or "cats".
    adapters: module type -> function that returns its gated replacement, for blocks that the search cannot see.
    Calibrate the result, then harden it. Raises InvalidInputError where no block is found.
    """
    gated = gated_structure(model, rank, granularity, glu, adapters)
    fit_gates_(gated, batches)
    return gated


def gated_structure(
    model: nn.Module,
    rank: int = 16,
    granularity: str = "token",
    glu: str = "lowrank",
    adapters: Mapping[type[nn.Module], Adapter] | None = None,
) -> GatedModel:
    """What `gate_` makes of the model, with gates that nothing has set: for loading weights that were saved."""
    model.eval()
    gated = GatedModel(replace_blocks_(model, BlockConfig(rank, granularity, glu), adapters or {}))
    if not gated_layers(gated):
        expected = "a Linear-activation-Linear, GLU or conv-norm-activation-conv block, or an adapter for one"
        raise InvalidInputError("model", expected, type(model).__name__)
    return gated


def harden_(model: nn.Module, weights: str = "float32") -> nn.Module:
    """Pack once for inference, in eval mode; the state_dict does not change, and training drops the packed copies.

    A layer whose gate or shape the kernels do not serve keeps running on the reference path. weights: "float32", or
    "bfloat16" to round the matrices of vector-row layers: few rows are bound by the stream of weights, which halves
    (memory does not: the dense kernel keeps float32). Sums stay float32; convolutions stay float32 altogether.
    Raises InvalidInputError for another value.
    """
    if weights not in ("float32", "bfloat16"):
        raise InvalidInputError("weights", "float32 or bfloat16", repr(weights))
    half = weights == "bfloat16"
    model.eval()
    name_layers_(model)
    blocks = {id(block.core): block for block in model.modules() if isinstance(block, GatedResidual)}
    for layer in gated_layers(model).values():
        if isinstance(layer, GatedConv):
            packed = PackedConv.pack(layer, blocks.get(id(layer)))
            layer.packed, layer.tail = packed, None if packed is None else packed.weights.tail
        elif isinstance(layer, GatedInputLinear):
            layer.packed = PackedInputs.pack(layer, half)
        elif isinstance(layer, GatedGLU) and layer.branch_is_dense:
            layer.packed = PackedCats.pack(layer, half)
        elif isinstance(layer, GatedMLP):
            layer.packed = PackedMLP.pack(layer, half)
    for module in model.modules():
        if isinstance(module, ServedLinear):
            module.pack()
    return model


def soften_(model: nn.Module) -> nn.Module:
    """Drop the packed weights: every plan runs on the reference path again."""
    for layer in gated_layers(model).values():
        layer.packed = None
    for module in model.modules():
        if isinstance(module, ServedLinear):
            module.packed = None
    return model
