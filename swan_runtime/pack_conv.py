"""Gated convolutions packed for the kernels, with everything of their residual block that the kernels can do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swan_runtime.activations import AconA, AconB, AconC, MetaAcon
from swan_runtime.conv import GatedConv, GatedResidual
from swan_runtime.errors import InvalidInputError
from swan_runtime.gate import PooledChannelGate
from swan_runtime.kernels import dispatch, ops
from swan_runtime.kernels.channel_gate import Bottleneck, ChannelGateWeights, channel_scores
from swan_runtime.kernels.channel_mask import ChannelMask, native_channel_mask
from swan_runtime.kernels.checks import check_images
from swan_runtime.kernels.conv_weights import Acon, ConvWeights, Tail
from swan_runtime.kernels.native import library
from swan_runtime.layers import GatedLayer, Spend
from swan_runtime.layout import Layout
from swan_runtime.pack import fold_norm, masked
from swan_runtime.plan import HardPlan


@dataclass(frozen=True)
class PackedConv:
    """GatedConv with a pooled gate; every BatchNorm folded in."""

    gate: ChannelGateWeights
    weights: ConvWeights

    @staticmethod
    def pack(layer: GatedConv, block: GatedResidual | None = None) -> PackedConv | None:
        """block: the residual block around the layer; its norm, shortcut and ReLU are packed as far as they can be.

        None where the kernels do not serve the layer's gate or shape: the reference path then runs it.
        """
        if not isinstance(layer.gate, PooledChannelGate) or not _supported(layer):
            return None
        conv1, conv2, gate = layer.conv1, layer.conv2, layer.gate
        switch = None
        if isinstance(layer.act, MetaAcon):
            first = fold_norm(layer.act.fc1.weight, layer.act.fc1.bias, layer.act.bn1)
            switch = Bottleneck.pack(first, fold_norm(layer.act.fc2.weight, layer.act.fc2.bias, layer.act.bn2))
        reduce = fold_norm(gate.reduce.weight, gate.reduce.bias, gate.norm)
        score = Bottleneck.pack(reduce, (gate.expand.weight, gate.expand.bias))
        acon = _acon(layer.act, layer.num_units)
        weights = ConvWeights.pack(
            fold_norm(conv1.weight, conv1.bias, layer.norm),
            fold_norm(conv2.weight, conv2.bias, nn.Identity() if block is None else block.norm_after),
            layer.mean,
            activation="relu" if acon is None else "acon",
            stride=int(conv1.stride[0]),
            padding=(int(conv1.padding[0]), int(conv2.padding[0])),
            acon=acon,
            tail=None if block is None else _tail(block),
        )
        return PackedConv(ChannelGateWeights(score, switch), weights)

    def run(self, layer: GatedLayer, x: Tensor, plan: HardPlan, layout: Layout) -> Tensor:
        """x [B, C, H, W] -> [B, O, H2, W2], after the block's tail if it is packed."""
        assert isinstance(layer, GatedConv)
        x = check_images(x, "x", self.weights.inputs)
        spend = layer.spend(x)
        found = self._masks(layer, x, plan, spend)
        active = sum(found.counts)
        kernel = self._kernel(x, active, plan.threads)
        result = ops.conv(
            x, found.mask, self.weights, beta=found.beta, kernel=kernel, threads=plan.threads, active=active
        )
        layer.record(plan, found.counts, found.hits, spend, kernel)
        return result.y

    def _masks(self, layer: GatedConv, x: Tensor, plan: HardPlan, spend: Spend) -> ChannelMask:
        loaded = library()
        if loaded is None:
            scores, beta = channel_scores(x, self.gate)
            mask = masked(layer, scores, plan, spend)
            return ChannelMask(mask.bits, mask.active, mask.hits, beta)
        try:
            return native_channel_mask(loaded, x, self.gate, plan.thresholds[layer.name], plan.k_max.get(layer.name))
        except InvalidInputError as error:
            raise InvalidInputError(f"{layer.name}.{error.field}", error.expected, error.got) from None

    def _kernel(self, x: Tensor, active: int, threads: int) -> str:
        return dispatch.choose_conv(self.weights, x.shape[0], active, (x.shape[2], x.shape[3]), threads)


def _supported(layer: GatedConv) -> bool:
    """The kernels serve square strides and paddings, no groups or dilation, a second stride of 1."""
    one, two = layer.conv1, layer.conv2
    square = all(len(set(value)) == 1 for value in (one.stride, one.padding, two.padding))
    plain = all(conv.groups == 1 and set(conv.dilation) == {1} for conv in (one, two))
    return square and plain and set(two.stride) == {1} and not isinstance(one.padding, str)


def _tail(block: GatedResidual) -> Tail | None:
    """None where the shortcut is neither the identity nor a 1x1 convolution, with or without BatchNorm."""
    shortcut, relu = block.shortcut, block.act_after is None
    if isinstance(shortcut, nn.Identity):
        return Tail(relu=relu)
    parts = list(shortcut) if isinstance(shortcut, nn.Sequential) else [shortcut]
    conv, norm = parts[0], parts[1] if len(parts) > 1 else nn.Identity()
    if len(parts) > 2 or not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d | nn.Identity):
        return None
    if conv.kernel_size != (1, 1) or set(conv.padding) != {0} or conv.groups != 1 or len(set(conv.stride)) != 1:
        return None
    weight, bias = fold_norm(conv.weight, conv.bias, norm)
    return Tail((weight.flatten(1), bias), int(conv.stride[0]), relu)


def _acon(act: nn.Module, channels: int) -> Acon | None:
    """Any ACON as the kernels' p1, p2, beta; None for ReLU. Meta-ACON's beta is replaced at each call."""
    ones, zeros = torch.ones(channels), torch.zeros(channels)
    if isinstance(act, MetaAcon):
        return Acon(act.p1.detach(), act.p2.detach(), ones)
    if isinstance(act, AconC):
        return Acon(act.p1.detach(), act.p2.detach(), act.beta.detach())
    if isinstance(act, AconB):
        return Acon(ones, act.p.detach(), act.beta.detach())
    return Acon(ones, zeros, act.beta.detach()) if isinstance(act, AconA) else None
