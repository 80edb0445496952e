"""The oracle: compute everything, then multiply by the mask. Skips nothing, so it also is the 1.0x control."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from swan_runtime.kernels.activations import acon, activate
from swan_runtime.kernels.conv_weights import ConvWeights
from swan_runtime.kernels.magnitude_weights import InputWeights
from swan_runtime.kernels.weights import GateWeights, GluWeights, MlpWeights


def hidden(x: Tensor, w: MlpWeights | GluWeights) -> Tensor:
    """x [..., D] -> every unit's value [..., F], gated or not."""
    if isinstance(w, GluWeights):
        return activate(F.linear(x, w.gate, w.gate_bias), w.activation) * F.linear(x, w.up, w.up_bias)
    return activate(F.linear(x, w.up, w.up_bias), w.activation)


def rows(x: Tensor, mask: Tensor, w: MlpWeights | GluWeights, scale: Tensor | None = None) -> Tensor:
    """x [..., D], mask bool [..., F] -> y [..., O]. scale [..., F]: multiplies the units' values (CATS)."""
    values = hidden(x, w) if scale is None else hidden(x, w) * scale
    return torch.matmul((values - w.mean) * mask, w.down_t) + w.down_bias


def inputs(x: Tensor, mask: Tensor, w: InputWeights) -> Tensor:
    """x [..., F], mask bool [..., F] -> y [..., O], without the low-rank path."""
    return torch.matmul((x - w.mean) * mask, w.down_t) + w.down_bias


def middle(x: Tensor, w: ConvWeights, beta: Tensor | None = None) -> Tensor:
    """x [B, C, H, W] -> every middle channel after its activation [B, K, H', W']. beta [B, K] replaces ACON's."""
    value = F.conv2d(x, w.up, w.up_bias, stride=w.stride, padding=w.padding)
    if w.acon is None:
        return activate(value, w.activation)
    switch = w.acon.beta.expand(x.shape[0], -1) if beta is None else beta
    return acon(value, w.acon.p1.view(1, -1, 1, 1), w.acon.p2.view(1, -1, 1, 1), switch[:, :, None, None])


def conv(x: Tensor, mask: Tensor, w: ConvWeights, beta: Tensor | None = None) -> Tensor:
    """x [B, C, H, W], mask bool [B, K] -> y [B, O, H'', W'']: an off channel is its mean, then zero padding."""
    mean = w.mean.view(1, -1, 1, 1)
    value = torch.where(mask[:, :, None, None], middle(x, w, beta), mean)
    y = F.conv2d(value, w.down(), w.down_bias, padding=w.down_padding)
    return y if w.tail is None else w.tail.apply(y, x)


def lowrank_scores(x: Tensor, gate: GateWeights) -> Tensor:
    """x [B, D] -> scores [B, F]."""
    scores = torch.addmm(gate.bias, x @ gate.p, gate.q_t)
    deviation = gate.deviation
    if deviation is None:
        return scores
    return activate(scores, deviation.activation).sub(deviation.center).abs().mul(deviation.norm)
