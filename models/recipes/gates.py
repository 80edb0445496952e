"""Where gate training starts: low-rank gates computed from the trained layer and the data, nothing learned."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from swan_runtime.activations import ELEMENTWISE
from swan_runtime.gate import LowRankGate
from swan_runtime.layers import GatedMLP


@torch.no_grad()
def start_gate_(layer: GatedMLP, x: Tensor) -> GatedMLP:
    """Set a deviation gate and the off-values of `layer` from inputs x [n, in] that it really sees.

    The gate predicts the up product by its best rank-r approximation on this data: the projection onto the leading left
    singular vectors of W C^(1/2), C being the inputs' covariance. Off units contribute their mean over x.
    """
    gate = cast(LowRankGate, layer.gate)
    weight, bias = layer.up.weight.double(), layer.up.bias.double()
    mean = x.double().mean(0)
    centred = x.double() - mean
    covariance = centred.T @ centred / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    left = torch.linalg.svd(weight @ (vectors * values.clamp_min(0).sqrt()), full_matrices=False).U[:, : gate.rank]
    gate.project.copy_(left.T @ weight)
    gate.expand.copy_(left)
    gate.bias.copy_(bias + weight @ mean - left @ (left.T @ (weight @ mean)))
    hidden = layer.unit_values(x)
    layer.mean.copy_(hidden.mean(0))
    predicted = x @ gate.project.T @ gate.expand.T + gate.bias
    gate.center.copy_(ELEMENTWISE[layer.activation](predicted).mean(0))
    gate.norm.copy_(layer.down.weight.norm(dim=0))
    gate.scale.copy_(gate.scores(x).std())
    return layer
