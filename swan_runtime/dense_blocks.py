"""Plain torch.nn replacements of gated layers: only the units that are used, means and norms folded, no gates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from swan_runtime.activations import AconA, AconB, AconC, MetaAcon, acon
from swan_runtime.conv import GatedConv
from swan_runtime.errors import InvalidInputError
from swan_runtime.layers import GatedGLU, GatedLayer, GatedMLP
from swan_runtime.pack import fold_norm

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "identity": nn.Identity}


@dataclass(frozen=True)
class UnitUse:
    """What the calibration inputs did with one layer's units.

    fired: [units] masks in which the unit ran, of `masks`; linear: [units] bool, its activation never changed a value.
    """

    fired: Tensor
    masks: int
    linear: Tensor


@dataclass(frozen=True)
class LayerCompaction:
    """dropped: units that their mean replaces; always: ran in every mask; folded: linear units merged into a matrix."""

    name: str
    units: int
    dropped: int
    always: int
    folded: int
    masks: int

    @property
    def rate_bound(self) -> float:
        """95 % upper bound on the firing rate of a unit that was never seen to fire: 3 / n (the rule of three)."""
        return 3.0 / max(self.masks, 1)


def dense_layer(layer: GatedLayer, use: UnitUse, min_rate: float) -> tuple[nn.Module, LayerCompaction]:
    """A torch.fx module of torch.nn layers that computes `layer` with exactly the kept units on.

    Units that fired in at most `min_rate` of the masks are dropped (0: only those that never fired).
    """
    keep = use.fired > min_rate * use.masks
    always = use.fired >= use.masks
    fold = torch.zeros_like(keep)
    block: nn.Module
    if isinstance(layer, GatedGLU):
        block = _DenseGLU(layer, keep)
    elif isinstance(layer, GatedMLP):
        fold = _worth_folding(layer, keep & always & use.linear)
        block = _DenseMLP(layer, keep & ~fold, fold, ~keep)
    elif isinstance(layer, GatedConv):
        block = _DenseConv(layer, keep)
    else:
        raise InvalidInputError(layer.name, "a GatedMLP, GatedFFN, GatedGLU or GatedConv", type(layer).__name__)
    report = LayerCompaction(
        layer.name, layer.num_units, int((~keep).sum()), int(always.sum()), int(fold.sum()), use.masks
    )
    return fx.symbolic_trace(block.eval()), report


def _worth_folding(layer: GatedMLP, linear: Tensor) -> Tensor:
    """RePaViT's identity W_idle2 W_idle1 is one D x O matrix: it pays when more than D O / (D + O) units are linear.

    For convolutions it never does: two 3x3 kernels compose to 5x5, which costs more than all channels together.
    """
    inputs, outputs = layer.up.in_features, layer.down.out_features
    return linear if int(linear.sum()) * (inputs + outputs) > inputs * outputs else torch.zeros_like(linear)


class _DenseMLP(nn.Module):
    def __init__(self, layer: GatedMLP, keep: Tensor, fold: Tensor, drop: Tensor) -> None:
        super().__init__()
        up, down = layer.up, layer.down
        up_bias = torch.zeros(layer.num_units) if up.bias is None else up.bias
        bias = _folded_bias(layer, drop)
        self.skip: nn.Module | None = None
        if bool(fold.any()):
            second = down.weight[:, fold]
            self.skip = linear(second @ up.weight[fold], bias + second @ up_bias[fold])
            bias = torch.zeros_like(bias)
        self.up = linear(_rows(up.weight, keep), _rows(up_bias, keep))
        self.activation = _ACTIVATIONS[layer.activation]()
        self.down = linear(_rows(down.weight.T, keep).T, bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.activation(self.up(x)))
        return y if self.skip is None else y + self.skip(x)


class _DenseGLU(nn.Module):
    def __init__(self, layer: GatedGLU, keep: Tensor) -> None:
        super().__init__()
        self.branch = linear(_rows(layer.branch.weight, keep), _bias(layer.branch, keep))
        self.up = linear(_rows(layer.up.weight, keep), _bias(layer.up, keep))
        self.activation = _ACTIVATIONS[layer.activation]()
        self.down = linear(_rows(layer.down.weight.T, keep).T, _folded_bias(layer, ~keep))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.activation(self.branch(x)) * self.up(x))
        return y


class _DenseConv(nn.Module):
    """The dropped channels' means become one channel that is always 1, so that zero padding cuts it off as it must."""

    p1: Tensor
    p2: Tensor
    beta: Tensor

    def __init__(self, layer: GatedConv, keep: Tensor) -> None:
        super().__init__()
        weight, bias = fold_norm(layer.conv1.weight, layer.conv1.bias, layer.norm)
        second = layer.conv2.weight.detach()
        constant = torch.einsum("okij,k->oij", second[:, ~keep], layer.mean[~keep])[:, None]
        weight, bias, second = weight[keep], bias[keep], second[:, keep]
        self.constant = bool(constant.abs().sum() > 0) or len(weight) == 0
        if self.constant:
            weight = torch.cat([weight, torch.zeros_like(layer.conv1.weight[:1])])
            bias = torch.cat([bias, torch.ones(1)])
            second = torch.cat([second, constant], 1)
        self.conv1 = _convolution(layer.conv1, weight, bias)
        self.conv2 = _convolution(layer.conv2, second, layer.conv2.bias)
        self._set_activation(layer.act, keep)

    def _set_activation(self, act: nn.Module, keep: Tensor) -> None:
        count = int(keep.sum())
        self.kind = "relu" if isinstance(act, nn.ReLU) else "acon"
        p1, p2, beta = torch.ones(count), torch.zeros(count), torch.zeros(count)
        if isinstance(act, AconC | MetaAcon):
            p1, p2 = act.p1.detach()[keep], act.p2.detach()[keep]
        if isinstance(act, AconB):
            p2 = act.p.detach()[keep]
        if isinstance(act, AconA | AconB | AconC):
            beta = act.beta.detach()[keep]
        if isinstance(act, MetaAcon):
            self.kind = "meta"
            second, bias = fold_norm(act.fc2.weight, act.fc2.bias, act.bn2)
            self.fc1 = linear(*fold_norm(act.fc1.weight, act.fc1.bias, act.bn1))
            self.fc2 = linear(self._pad(second[keep], 0.0), self._pad(bias[keep], 0.0))
        # p1 = p2 = 1 is the identity, which keeps the constant channel at 1.
        for name, value, fill in (("p1", p1, 1.0), ("p2", p2, 1.0), ("beta", beta, 0.0)):
            self.register_buffer(name, self._pad(value, fill)[:, None, None])

    def _pad(self, value: Tensor, fill: float) -> Tensor:
        """One entry more, for the constant channel."""
        return torch.cat([value, value.new_full((1, *value.shape[1:]), fill)]) if self.constant else value

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(x)
        if self.kind == "relu":
            hidden = F.relu(hidden)
        else:
            beta = self.beta
            if self.kind == "meta":
                beta = torch.sigmoid(self.fc2(self.fc1(x.mean((2, 3)))))[:, :, None, None]
            hidden = acon(hidden, self.p1, self.p2, beta)
        y: Tensor = self.conv2(hidden)
        return y


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A torch.nn.Linear with these values."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def _rows(values: Tensor, keep: Tensor) -> Tensor:
    """values[keep], or one row of zeros where nothing is kept (torch has no empty layers)."""
    return values[keep] if bool(keep.any()) else torch.zeros_like(values[:1])


def _bias(layer: nn.Linear, keep: Tensor) -> Tensor | None:
    return None if layer.bias is None else _rows(layer.bias, keep)


def _folded_bias(layer: GatedMLP, drop: Tensor) -> Tensor:
    start = torch.zeros(layer.down.out_features) if layer.down.bias is None else layer.down.bias
    return start + layer.down.weight[:, drop] @ layer.mean[drop]


def _convolution(like: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    padding = like.padding if isinstance(like.padding, str) else (int(like.padding[0]), int(like.padding[1]))
    layer = nn.Conv2d(
        weight.shape[1], weight.shape[0], (weight.shape[2], weight.shape[3]), (like.stride[0], like.stride[1]),
        padding, (like.dilation[0], like.dilation[1]), bias=bias is not None,
    )  # fmt: skip
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
    return layer
