"""compact(): plain torch.nn layers that compute the gated model with its kept units on."""

import warnings
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from swan_runtime.bind import GatedModel
from swan_runtime.budget import OPEN, CalibrationTable
from swan_runtime.calibrate import CalibrationConfig, calibrate, set_means_
from swan_runtime.compact import compact, compact_layers
from swan_runtime.convert import gate_
from swan_runtime.dense_blocks import UnitUse, dense_layer
from swan_runtime.errors import CalibrationError, InvalidInputError
from swan_runtime.gate import LowRankGate
from swan_runtime.layers import GatedMLP, gated_layers, name_layers_
from swan_runtime.macs import count_macs, dense_macs
from swan_runtime.plan import HardPlan

CONFIG = CalibrationConfig("m", "none", budgets=(0.5,))


def decide_(model: nn.Module) -> nn.Module:
    """Gates whose decision does not depend on the input: about half of the units always, the others never."""
    with torch.no_grad():
        for layer in gated_layers(model).values():
            layer.mean.normal_(0, 0.5)
            last = layer.gate.expand if isinstance(layer.gate, LowRankGate) else layer.gate.expand.weight
            bias = layer.gate.bias if isinstance(layer.gate, LowRankGate) else layer.gate.expand.bias
            last.mul_(1e-3)
            bias.copy_(torch.randn(layer.num_units).sign() * 5.0)
    return model.eval()


def native(networks: SimpleNamespace) -> list[tuple[nn.Module, tuple[Any, ...]]]:
    return [
        (networks.TinyMLP(), (networks.blobs(60)[0],)),
        *((networks.TinyConv(act), (torch.randn(20, 3, 8, 8),)) for act in ("relu", "acon_a", "acon_b", "acon_c")),
        (networks.TinyConv("meta_acon"), (torch.randn(20, 3, 8, 8),)),
        (networks.TinyEncoder(), (torch.randn(12, 5, 16),)),
    ]


@torch.no_grad()
def test_export_equals_the_gated_model_where_decisions_do_not_depend_on_the_input(networks: SimpleNamespace) -> None:
    for model, inputs in native(networks):
        decide_(model)
        table = calibrate(model, [inputs], lambda out: 0.0, CONFIG)
        plan = HardPlan.uniform(dict(table.points[0].thresholds), len(inputs[0]))
        thresholds = dict.fromkeys(plan.thresholds, 0.0)
        table = shared_threshold_table(table, thresholds)
        expected = model(*inputs, plan=HardPlan.uniform(thresholds, len(inputs[0])))
        exported = compact(model, 0.5, table, [inputs])
        torch.testing.assert_close(exported.module(*inputs), expected, atol=1e-5, rtol=1e-4)
        assert all(0 < layer.dropped < layer.units for layer in exported.layers)
        assert all(layer.dropped + layer.always == layer.units for layer in exported.layers)
        assert count_macs(exported.module, *inputs) < dense_macs(model, inputs)


def shared_threshold_table(table: CalibrationTable, thresholds: dict[str, float]) -> CalibrationTable:
    return replace(table, points=(replace(table.points[0], thresholds=thresholds),))


@torch.no_grad()
def test_units_that_fire_sometimes_run_always_in_the_export(networks: SimpleNamespace) -> None:
    model, x = networks.TinyMLP(), networks.blobs(80)[0]
    set_means_(model, [(x,)])
    table = calibrate(model, [(x,)], lambda out: 0.0, CONFIG)
    point = table.at(0.5)
    plan = HardPlan.uniform(dict(point.thresholds), len(x), reference=True)
    ever: dict[str, torch.Tensor] = {}
    plan.observer = lambda name, mask: ever.__setitem__(name, mask.any(0))
    model(x, plan=plan)
    # The oracle: the same weights with the mask "ever fired" for every input.
    hidden = torch.relu(model.first.up(x))
    y = model.first.down(torch.where(ever["first"], hidden, model.first.mean))
    hidden = torch.nn.functional.gelu(model.second.up(torch.relu(y)))
    y = model.second.down(torch.where(ever["second"], hidden, model.second.mean))
    exported = compact(model, 0.5, table, [(x,)])
    torch.testing.assert_close(exported.module(x), model.head(torch.relu(y)), atol=1e-5, rtol=1e-4)
    fewer = compact(model, 0.5, table, [(x,)], min_rate=0.5)
    assert fewer.layers[0].dropped > exported.layers[0].dropped


@torch.no_grad()
def test_the_export_knows_nothing_of_this_package_and_goes_through_torch_export(networks: SimpleNamespace) -> None:
    for model, inputs in native(networks):
        decide_(model)
        table = calibrate(model, [inputs], lambda out: 0.0, CONFIG)
        module = compact(model, 0.5, table, [inputs]).module
        assert not any(type(part).__module__.startswith("swan_runtime") for part in module.modules())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.export warns about its own internals
            program = torch.export.export(module, inputs)
        torch.testing.assert_close(program.module()(*inputs), module(*inputs))


@torch.no_grad()
def test_a_gated_user_module_comes_back_as_the_users_own_class() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 9)
    gated = gate_(nn.Sequential(nn.Linear(9, 30), nn.ReLU(), nn.Linear(30, 9), nn.LayerNorm(9)), [(x,)], rank=3)
    table = calibrate(gated, [(x,)], lambda out: 0.0, CONFIG)
    exported = compact(gated, 1.0, table, [(x,)])
    assert not isinstance(exported.module, GatedModel)
    torch.testing.assert_close(exported.module(x), gated(x), atol=1e-5, rtol=1e-4)
    assert "30 units, 0 dropped, 30 always on" in str(exported)
    assert "6.00%" in str(exported)  # 3 / 50


@torch.no_grad()
def test_linear_units_are_folded_exactly_when_that_saves_macs() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 8)
    for linear_units, folded in ((20, 20), (3, 0)):
        layer = name_layers_(GatedMLP(8, 24, 8, rank=2))
        layer.up.bias[:linear_units] = 50.0  # never below zero on these inputs, so ReLU does nothing there
        layer.up.bias[linear_units:] = 0.0
        table = calibrate(GatedModel(layer), [(x,)], lambda out: 0.0, CONFIG)
        exported = compact(GatedModel(layer), 1.0, table, [(x,)])
        assert exported.layers[0].folded == folded
        torch.testing.assert_close(exported.module(x), layer(x), atol=1e-4, rtol=1e-4)
        macs = count_macs(exported.module, x[:1])
        assert macs == (8 * 8 + 4 * 16 if folded else 24 * 16)


@torch.no_grad()
def test_a_layer_that_never_fires_becomes_its_mean(networks: SimpleNamespace) -> None:
    for model, inputs in native(networks):
        decide_(model)
        for name, layer in gated_layers(model).items():
            use = UnitUse(torch.zeros(layer.num_units, dtype=torch.int64), 10, torch.zeros(layer.num_units).bool())
            block, report = dense_layer(layer, use, 0.0)
            size = (4, *inputs[0].shape[1:]) if name == next(iter(gated_layers(model))) else None
            if size is not None:
                x = torch.randn(size)
                closed = layer(x, HardPlan.uniform({name: 1e9}, 4))
                torch.testing.assert_close(block(x), closed, atol=1e-5, rtol=1e-4)
            assert report.dropped == layer.num_units


def test_bad_arguments_are_refused(networks: SimpleNamespace) -> None:
    model, x = networks.TinyMLP(), networks.blobs(20)[0]
    table = calibrate(model, [(x,)], lambda out: 0.0, CONFIG)
    with pytest.raises(InvalidInputError, match="min_rate"):
        compact(model, 0.5, table, [(x,)], min_rate=1.0)
    with pytest.raises(InvalidInputError, match="budget"):
        compact(model, 0.0, table, [(x,)])
    with pytest.raises(CalibrationError, match="layers"):
        compact_layers(model, 0.5, shared_threshold_table(table, {"other": OPEN}), [(x,)])


def test_a_forward_that_cannot_be_traced_is_said(networks: SimpleNamespace) -> None:
    class Branching(networks.TinyMLP):  # type: ignore[name-defined,misc]
        def forward(self, x: torch.Tensor, plan: Any = None) -> torch.Tensor:
            return super().forward(x, plan) if bool(x.sum() > 0) else super().forward(-x, plan)

    model, x = Branching(), networks.blobs(20)[0]
    table = calibrate(model, [(x,)], lambda out: 0.0, CONFIG)
    with pytest.raises(InvalidInputError, match="compact_layers"):
        compact(model, 0.5, table, [(x,)])
    assert set(compact_layers(model, 0.5, table, [(x,)])[0]) == {"first", "second"}
