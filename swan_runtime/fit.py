"""Gates without training: fitted to what a trained layer does on data (PCA or SVD of its up matrix, see gating.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from swan_runtime.activations import ELEMENTWISE
from swan_runtime.calibrate import Inputs, evaluating
from swan_runtime.conv import GatedConv
from swan_runtime.errors import InvalidInputError
from swan_runtime.gate import LowRankGate, MagnitudeGate, PooledChannelGate
from swan_runtime.layers import GatedGLU, GatedMLP, gated_layers

MAX_POSITIONS = 8192
"""Inputs kept per layer: 8192 x 1536 hidden values fit in 50 MB, and more changed no gate noticeably."""
MAX_IMAGES = 1024
"""The same for images, whose hidden values are a map per channel."""
JUDGE_DENSITY = 0.3
"""Density at which two candidate gates are compared: the middle of the served range."""


@torch.no_grad()
def fit_gates_(model: nn.Module, batches: Sequence[Inputs], seed: int = 0) -> nn.Module:
    """Set means and gates of every gated layer from the inputs it sees in the dense model. Nothing is trained.

    batches: tuples of the model's positional inputs; some thousand positions (rows, tokens) per layer are enough.
    """
    for name, x in _layer_inputs(model, batches, seed).items():
        layer = gated_layers(model)[name]
        layer.eval()
        if isinstance(layer, GatedConv):
            _fit_conv_(layer, x)
        elif isinstance(layer, GatedMLP):
            _fit_mlp_(layer, x)
    return model


def _layer_inputs(model: nn.Module, batches: Sequence[Inputs], seed: int) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    per_batch = max(1, MAX_POSITIONS // len(batches)) if batches else 0
    kept: dict[str, list[Tensor]] = {name: [] for name in gated_layers(model)}

    def keep(name: str) -> Callable[..., None]:
        def hook(layer: Any, args: tuple[Any, ...]) -> None:
            image = isinstance(layer, GatedConv)
            x = args[0] if image else args[0].reshape(-1, args[0].shape[-1])
            most = max(1, per_batch * MAX_IMAGES // MAX_POSITIONS) if image else per_batch
            kept[name].append(x[torch.randperm(len(x), generator=source)[:most].to(x.device)])

        return hook

    handles = [layer.register_forward_pre_hook(keep(name)) for name, layer in gated_layers(model).items()]
    try:
        with evaluating(model):
            for inputs in batches:
                model(*inputs, plan=None)
    finally:
        for handle in handles:
            handle.remove()
    for name, parts in kept.items():
        if sum(map(len, parts)) < 2:
            raise InvalidInputError("batches", f"at least two inputs of layer {name}", str(sum(map(len, parts))))
    return {name: torch.cat(parts) for name, parts in kept.items()}


def _fit_mlp_(layer: GatedMLP, x: Tensor) -> None:
    """x: [n, in]."""
    value = layer.unit_values(x)
    layer.mean.copy_(value.mean(0))
    norm = layer.down.weight.norm(dim=0)
    gate = layer.gate
    if isinstance(gate, MagnitudeGate):
        gate.weight.copy_(norm / norm.mean())
    if isinstance(gate, LowRankGate):
        energy = ((value - layer.mean) * norm).square()
        _set_lowrank_(layer, gate, x, norm, energy)
        gate.scale.copy_(gate.scores(x).std())


def _set_lowrank_(layer: GatedMLP, gate: LowRankGate, x: Tensor, norm: Tensor, energy: Tensor) -> None:
    """Try PCA of the inputs and the output-weighted SVD of the up matrix; keep what catches more energy."""
    read = layer.branch if isinstance(layer, GatedGLU) else layer.up
    bias = torch.zeros_like(norm) if read.bias is None else read.bias
    if isinstance(layer, GatedGLU):
        # A unit's value is branch * up: the gate predicts the branch, the other factor enters by its usual size.
        norm = norm * layer.up(x).square().mean(0).sqrt()
        gate.norm.copy_(norm)
    else:
        gate.norm.copy_(norm)
        gate.center.copy_(layer.mean)
    center = x.mean(0)
    covariance = (x - center).T @ (x - center) / len(x)
    best = -1.0
    chosen: tuple[Tensor, Tensor] | None = None
    for project, expand in _factors(read.weight, covariance, norm, gate.rank):
        predicted = (x - center) @ project.T @ expand.T + (read.weight @ center + bias)
        values = ELEMENTWISE[layer.activation](predicted)
        caught = _energy_caught((values - gate.center).abs() * gate.norm, energy)
        if caught > best:
            best, chosen = caught, (project, expand)
    assert chosen is not None
    project, expand = chosen
    offset = read.weight @ center + bias - expand @ (project @ center)
    if gate.score == "logit":
        # A logit gate has no activation: scaled rows make one threshold fair to units that matter differently.
        gain = norm / ((x @ project.T @ expand.T + offset) * norm).std()
        expand, offset = expand * gain[:, None], offset * gain
    for parameter, value in ((gate.project, project), (gate.expand, expand), (gate.bias, offset)):
        parameter.copy_(_padded(value, parameter))


def _factors(weight: Tensor, covariance: Tensor, norm: Tensor, rank: int) -> list[tuple[Tensor, Tensor]]:
    """(project [r, D], expand [F, r]) candidates for weight [F, D] on inputs of this covariance."""
    values, vectors = torch.linalg.eigh(covariance.double())
    basis = vectors[:, -rank:].T.float()
    spread = (vectors * values.clamp_min(0).sqrt()).float()
    left = torch.linalg.svd((norm[:, None] * weight) @ spread, full_matrices=False)[0][:, :rank]
    safe = norm.clamp_min(1e-6 * float(norm.max()) + 1e-30)
    return [(basis, weight @ basis.T), (left.T @ (safe[:, None] * weight), left / safe[:, None])]


def _energy_caught(scores: Tensor, energy: Tensor) -> float:
    """Share of `energy` [n, units] in the units that the best `JUDGE_DENSITY` of all `scores` choose."""
    count = max(1, round(JUDGE_DENSITY * scores.numel()))
    return float(energy.reshape(-1)[scores.reshape(-1).topk(count).indices].sum() / energy.sum().clamp_min(1e-30))


def _fit_conv_(layer: GatedConv, x: Tensor) -> None:
    """x: [n, C, H, W]. Regresses each channel's deviation energy on the pooled input, in the rank of the bottleneck."""
    value = layer.unit_values(x)
    layer.mean.copy_(value.mean((0, 2, 3)))
    gate = layer.gate
    if not isinstance(gate, PooledChannelGate):
        return
    norm = layer.conv2.weight.square().sum((0, 2, 3)).sqrt()
    energy = (value - layer.mean[:, None, None]).square().mean((2, 3)).sqrt() * norm
    pooled = x.mean((2, 3))
    offset, target = pooled.mean(0), energy.mean(0)
    inputs = (pooled - offset).double()
    ridge = 1e-3 * inputs.square().mean() * len(inputs)
    gram = inputs.T @ inputs + ridge * torch.eye(inputs.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, inputs.T @ (energy - target).double()).T.float()  # [units, C]
    left = torch.linalg.svd(weight @ inputs.T.float(), full_matrices=False)[0][:, : gate.reduce.out_features]
    project = left.T @ weight
    hidden = (pooled - offset) @ project.T
    # The bottleneck's ReLU must not bite: shift it far enough into the positive for the data and as much beyond.
    shift = 2.0 * hidden.abs().amax(0) + 1e-3
    if isinstance(gate.norm, nn.BatchNorm1d):
        _set_identity_(gate.norm, hidden + shift)
    gate.reduce.weight.copy_(_padded(project, gate.reduce.weight))
    gate.reduce.bias.copy_(_padded(shift - project @ offset, gate.reduce.bias))
    gate.expand.weight.copy_(_padded(left, gate.expand.weight))
    gate.expand.bias.copy_(target - left @ shift)
    gate.scale.copy_(gate.scores(x).std())


def _set_identity_(norm: nn.BatchNorm1d, x: Tensor) -> None:
    """Make `norm` change nothing on inputs like x [n, <= features], in training mode as in inference."""
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(_padded(x.mean(0), norm.running_mean))
    norm.running_var.copy_(_padded(x.var(0, correction=0), norm.running_var))
    norm.weight.copy_((norm.running_var + norm.eps).sqrt())
    norm.bias.copy_(norm.running_mean)


def _padded(value: Tensor, like: Tensor) -> Tensor:
    """`value` in the shape of `like`, zeros where its rank is smaller than the gate's."""
    out = torch.zeros_like(like)
    out[tuple(slice(size) for size in value.shape)] = value
    return out
