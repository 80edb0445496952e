"""Input magnitude gates: what is dropped, what the low-rank path restores, and what it costs."""

import pytest
import torch
from torch import nn

from swan_runtime.bind import GatedModel
from swan_runtime.calibrate import CalibrationConfig, calibrate, set_means_
from swan_runtime.input_gate import GatedInputLinear
from swan_runtime.layers import name_layers_
from swan_runtime.plan import HardPlan
from swan_runtime.runtime import Runtime


@torch.no_grad()
def test_small_inputs_are_replaced_by_their_mean() -> None:
    torch.manual_seed(0)
    layer = name_layers_(GatedInputLinear(nn.Linear(12, 7)))
    x = torch.randn(5, 12)
    set_means_(GatedModel(layer), [(x,)])
    name_layers_(layer)
    torch.testing.assert_close(layer.mean, x.mean(0))
    plan = HardPlan.uniform({"layer": 0.8}, 5)
    expected = layer.linear(torch.where(x.abs() > 0.8, x, layer.mean))
    torch.testing.assert_close(layer(x, plan), expected)
    assert plan.traces["layer"].macs_active == [int(n) * 7 for n in (x.abs() > 0.8).sum(1)]


@torch.no_grad()
def test_the_low_rank_path_brings_the_answer_closer_and_full_rank_makes_it_exact() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(12, 9), torch.randn(50, 12)
    errors = []
    for rank in (0, 3, 9):
        layer = name_layers_(GatedInputLinear(linear, rank))
        plan = HardPlan.uniform({"layer": 0.7}, 50)
        errors.append(float((layer(x, plan) - linear(x)).square().mean()))
        trace = plan.traces["layer"]
        assert (trace.macs_dense[0], trace.macs_gate[0]) == (12 * 9, rank * 21)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] == pytest.approx(0.0, abs=1e-9)


@torch.no_grad()
def test_it_calibrates_and_serves_per_token_like_any_layer() -> None:
    torch.manual_seed(0)
    model = GatedModel(nn.Sequential(GatedInputLinear(nn.Linear(16, 16), 2), nn.ReLU(), nn.Linear(16, 3)))
    x = torch.randn(60, 4, 16)
    table = calibrate(model, [(x,)], lambda out: 0.0, CalibrationConfig("m", "none", budgets=(0.5,)))
    y, reports = Runtime(model, table).infer(x, [0.5] * 60)
    assert y.shape == (60, 4, 3)
    assert table.points[0].activity_mean == pytest.approx(0.5, abs=0.02)
    assert reports[0].layers[0].units_total == 64
    assert reports[0].macs_fixed == 4 * 16 * 3
