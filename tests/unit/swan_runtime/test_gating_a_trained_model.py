"""gate_: an ordinary trained module gets gates without training and keeps its answers."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swan_runtime.activations import AconC
from swan_runtime.bind import GatedModel
from swan_runtime.calibrate import CalibrationConfig, calibrate, fit_thresholds, measure
from swan_runtime.conv import GatedConv
from swan_runtime.convert import gate_, harden_
from swan_runtime.errors import InvalidInputError
from swan_runtime.fit import fit_gates_
from swan_runtime.layers import GatedGLU, GatedMLP, gated_layers
from swan_runtime.runtime import Runtime


class Residual(nn.Module):
    """A block with a functional activation and a branch on data that torch.fx cannot trace at the outer level."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(12, 16)
        self.block = ResidualInner()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        if bool(h.sum() > 1e9):
            return torch.zeros(len(x), 3)
        out: Tensor = self.head(self.block(h))
        return out


class ResidualInner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.one, self.two, self.drop = nn.Linear(16, 40), nn.Linear(40, 16), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.two(self.drop(F.gelu(self.one(self.norm(x)))))
        return out


class SwiGLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Linear(8, 24, bias=False), nn.Linear(24, 8, bias=False)
        self.w3 = nn.Linear(8, 24, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class Split(nn.Module):
    """The pattern is spread over children, as in many published transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = Half(6, 20, True), Half(20, 6, False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.outer(self.inner(x))
        return out


class Half(nn.Module):
    def __init__(self, inputs: int, outputs: int, active: bool) -> None:
        super().__init__()
        self.dense, self.active = nn.Linear(inputs, outputs), active

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dense(x)
        return y.relu() if self.active else y


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), AconC(12), nn.Conv2d(12, 6, 3, padding=1),
        nn.ReLU(), nn.Conv2d(6, 10, 1, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 4),
    )  # fmt: skip


@torch.no_grad()
def test_every_block_is_found_and_answers_stay_as_they_were() -> None:
    torch.manual_seed(0)
    cases: list[tuple[nn.Module, Tensor, list[type]]] = [
        (nn.Sequential(nn.Linear(9, 30), nn.ReLU(), nn.Linear(30, 5)), torch.randn(40, 9), [GatedMLP]),
        (Residual(), torch.randn(40, 12), [GatedMLP]),
        (Residual(), torch.randn(40, 6, 12), [GatedMLP]),
        (SwiGLU(), torch.randn(40, 5, 8), [GatedGLU]),
        (convolutional(), torch.randn(16, 3, 8, 8), [GatedConv]),
        (nn.Sequential(convolutional(), nn.Linear(4, 9), nn.GELU(), nn.Linear(9, 2)), torch.randn(8, 3, 8, 8),
         [GatedConv, GatedMLP]),
    ]  # fmt: skip
    for module, x, kinds in cases:
        before = module.eval()(x)
        gated = gate_(module, [(x,)], rank=4)
        assert [type(layer) for layer in gated_layers(gated).values()] == kinds
        torch.testing.assert_close(gated(x), before, atol=1e-5, rtol=1e-4)
        table = calibrate(gated, [(x,)], lambda out: 0.0, CalibrationConfig("m", "none", budgets=(0.5,)))
        runtime = Runtime(gated, table)
        y, reports = runtime.infer(x, [1.0] * len(x))
        torch.testing.assert_close(y, before, atol=1e-4, rtol=1e-4)
        _, reports = runtime.infer(x, [0.5] * len(x))
        assert sum(report.activity for report in reports) / len(x) == pytest.approx(0.5, abs=0.06)


def train_dense(networks: SimpleNamespace) -> nn.Module:
    model = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 5))
    x, labels = networks.blobs(1024)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def test_fitted_gates_beat_random_gates_and_means_beat_zeros_at_equal_activity(networks: SimpleNamespace) -> None:
    with torch.enable_grad():
        dense = train_dense(networks)
    x = networks.blobs(800, seed=2)[0]
    expected = dense(x)
    gated = gate_(dense, [(networks.blobs(600, seed=1)[0],)], rank=8)

    def error() -> float:
        config = CalibrationConfig("m", "none")
        seen = measure(gated, [(x,)], fit_thresholds(gated, [(x,)], 0.3, config))
        return float((seen.outputs - expected).square().mean() / expected.square().mean())

    fitted = error()
    (layer,) = [layer for name, layer in gated_layers(gated).items()][:1]
    means = layer.mean.clone()
    layer.mean.zero_()
    zeros = error()
    layer.mean.copy_(means)
    layer.gate.expand.copy_(layer.gate.expand[torch.randperm(layer.num_units)])
    assert fitted < 0.5 * error()
    assert fitted < zeros
    assert fitted < 0.1


def test_what_cannot_be_gated_stays_and_is_said() -> None:
    shared = nn.Linear(6, 6)
    twice = nn.Sequential(shared, nn.ReLU(), shared)
    tanh = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    approximate = nn.Sequential(nn.Linear(6, 6), nn.GELU(approximate="tanh"), nn.Linear(6, 6))
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 4, 3))
    for module in (twice, tanh, approximate, grouped):
        with pytest.raises(InvalidInputError, match="adapter"):
            gate_(module, [(torch.randn(4, 6),)])


@torch.no_grad()
def test_an_adapter_gates_a_block_that_is_spread_over_children() -> None:
    def adapt(module: nn.Module) -> nn.Module:
        assert isinstance(module, Split)
        layer = GatedMLP(6, 20, 6, rank=3)
        layer.up, layer.down = module.inner.dense, module.outer.dense
        return layer

    model, x = nn.Sequential(Split(), nn.Linear(6, 2)), torch.randn(50, 6)
    before = model(x)
    with pytest.raises(InvalidInputError):
        gate_(model, [(x,)])
    gated = gate_(model, [(x,)], adapters={Split: adapt})
    torch.testing.assert_close(gated(x), before)
    assert list(gated_layers(gated)) == ["module.0"]


@torch.no_grad()
def test_request_masks_and_cats_gates_can_be_asked_for() -> None:
    x = torch.randn(20, 6, 16)
    inner = gate_(ResidualInner(), [(x,)], granularity="request")
    seen = measure(inner, [(x,)], fit_thresholds(inner, [(x,)], 0.4, CalibrationConfig("m", "none")))
    assert {layer.units_total for report in seen.reports for layer in report.layers} == {40}
    cats = gate_(SwiGLU(), [(torch.randn(30, 8),)], glu="cats")
    assert next(iter(gated_layers(cats).values())).gate.macs == 0


@torch.no_grad()
def test_too_little_data_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least two inputs"):
        gate_(SwiGLU(), [(torch.randn(1, 8),)])


@torch.no_grad()
def test_native_gated_networks_start_from_fitted_gates_with_their_state_dict_unchanged(
    networks: SimpleNamespace,
) -> None:
    for model, batch in (
        (networks.TinyMLP(), (networks.blobs(200)[0],)),
        (networks.TinyConv("relu"), (torch.randn(40, 3, 8, 8),)),
    ):
        names = list(model.state_dict())
        before = model.eval()(*batch)
        fit_gates_(model, [batch])
        assert list(model.state_dict()) == names
        torch.testing.assert_close(model(*batch), before)
        assert all(bool(layer.mean.abs().sum() > 0) for layer in gated_layers(model).values())
        seen = measure(model, [batch], fit_thresholds(model, [batch], 0.5, CalibrationConfig("m", "none")))
        assert float(seen.activity.mean()) == pytest.approx(0.5, abs=0.03)


@torch.no_grad()
def test_a_gated_module_shares_parameters_with_its_skeletons() -> None:
    gated = gate_(nn.Sequential(nn.Linear(9, 30), nn.ReLU(), nn.Linear(30, 5)), [(torch.randn(40, 9),)], rank=2)
    x = torch.randn(3, 9)
    before = gated(x)
    for parameter in gated.parameters():
        parameter.mul_(2.0)
    assert not torch.allclose(gated(x), before)
    assert isinstance(gated, GatedModel)
    assert harden_(gated) is gated
