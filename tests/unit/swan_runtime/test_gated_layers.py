"""Gated layers: open gates equal the dense layer, off units contribute their mean, rows and tokens are independent."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from swan_runtime.budget import OPEN
from swan_runtime.conv import GatedConv, GatedConvBlock
from swan_runtime.errors import InvalidInputError
from swan_runtime.gate import InputMagnitudeGate, LowRankGate, MagnitudeGate, PooledChannelGate
from swan_runtime.layers import GatedFFN, GatedGLU, GatedMLP, gated_layers, name_layers_
from swan_runtime.plan import HardPlan, SoftPlan


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def open_plan(model: nn.Module, rows: int, value: float = OPEN) -> HardPlan:
    return HardPlan.uniform(dict.fromkeys(gated_layers(model), value), rows)


def test_open_gates_equal_no_plan_for_every_family(networks: SimpleNamespace) -> None:
    cases = [
        (networks.TinyMLP(), (torch.randn(6, 20),)),
        (networks.TinyConv("meta_acon"), (torch.randn(3, 3, 8, 8),)),
        (networks.TinyEncoder(), (torch.randn(2, 5, 16),)),
    ]
    for model, inputs in cases:
        model.eval()
        torch.testing.assert_close(model(*inputs, plan=open_plan(model, len(inputs[0]))), model(*inputs))


def test_closed_gates_leave_exactly_the_means() -> None:
    layer = name_layers_(GatedMLP(10, 16, 7))
    layer.mean.uniform_(-1, 1)
    y = layer(torch.randn(3, 10), open_plan_of(layer, 3, 1e9))
    torch.testing.assert_close(y, layer.down(layer.mean).expand(3, -1))


def open_plan_of(layer: nn.Module, rows: int, value: float) -> HardPlan:
    return HardPlan.uniform({layer.name: value}, rows)


def test_each_row_has_its_own_threshold() -> None:
    layer = name_layers_(GatedMLP(10, 16, 7))
    x = torch.randn(2, 10)
    plan = HardPlan({layer.name: torch.tensor([OPEN, 1e9])})
    y = layer(x, plan)
    torch.testing.assert_close(y[0], layer(x)[0])
    torch.testing.assert_close(y[1], layer.down.bias)
    assert plan.traces[layer.name].active == [16, 0]


def test_padding_changes_neither_results_nor_counts(networks: SimpleNamespace) -> None:
    model = networks.TinyEncoder().eval()
    lengths = [3, 6, 1]
    padded = torch.randn(3, 6, 16)
    plan = open_plan(model, 3, 2.0)
    y = model(padded, lengths, plan)
    for i, length in enumerate(lengths):
        alone = open_plan(model, 1, 2.0)
        torch.testing.assert_close(model(padded[i : i + 1, :length], None, alone)[0], y[i, :length])
        for name, trace in plan.traces.items():
            assert (trace.active[i], trace.macs_active[i]) == (
                alone.traces[name].active[0],
                alone.traces[name].macs_active[0],
            )


def test_ragged_tokens_equal_padded_tokens() -> None:
    layer = name_layers_(GatedFFN(16, 40, 4, granularity="request"))
    x, lengths = torch.randn(2, 4, 16), [4, 2]
    ragged = torch.cat([x[0], x[1, :2]])
    padded_plan, ragged_plan = open_plan_of(layer, 2, 2.0), open_plan_of(layer, 2, 2.0)
    padded = layer(x, padded_plan, lengths)
    torch.testing.assert_close(layer(ragged, ragged_plan, lengths), torch.cat([padded[0], padded[1, :2]]))
    assert padded_plan.traces == ragged_plan.traces


def test_a_request_mask_is_shared_by_its_tokens_and_pooling_decides_what_the_gate_costs() -> None:
    for pool, evaluations in (("scores", 5), ("input", 1)):
        layer = name_layers_(GatedFFN(16, 40, 4, granularity="request", pool=pool))
        plan = open_plan_of(layer, 1, 2.0)
        layer(torch.randn(1, 5, 16), plan)
        trace = plan.traces[layer.name]
        assert trace.total == [40]
        assert trace.macs_active == [trace.active[0] * 5 * 32]
        assert trace.macs_gate == [evaluations * layer.gate.macs]


def test_wrong_lengths_and_shapes_are_refused() -> None:
    layer = name_layers_(GatedFFN(16, 40, 4))
    for x, lengths, field in (
        (torch.randn(2, 4, 16), [5, 1], "lengths"),
        (torch.randn(5, 16), [2, 2], "lengths"),
        (torch.randn(2, 2, 2, 16), [2, 2], "x"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            layer(x, open_plan_of(layer, 2, 0.0), lengths)
        assert caught.value.field == field


def test_an_unnamed_layer_and_nonfinite_scores_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="name_layers_"):
        GatedMLP(4, 8, 4)(torch.randn(1, 4), HardPlan({}))
    layer = name_layers_(GatedMLP(4, 8, 4))
    with pytest.raises(InvalidInputError, match="finite"):
        layer(torch.full((1, 4), float("nan")), open_plan_of(layer, 1, 0.0))


@settings(max_examples=25, deadline=None)
@given(low=st.floats(-2, 4), high=st.floats(-2, 4), seed=st.integers(0, 9))
def test_masks_are_nested_in_the_threshold(low: float, high: float, seed: int) -> None:
    low, high = sorted((low, high))
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(seed))
    for gate in (LowRankGate(12, 30, 3), LowRankGate(12, 30, 3, score="deviation"), MagnitudeGate(12)):
        scores = gate(x)
        assert not (gate.mask(scores, high) & ~gate.mask(scores, low)).any()


@pytest.mark.parametrize("cap", [0, 1, 5, 40])
def test_the_cap_keeps_the_top_scores_and_counts_the_hit(cap: int) -> None:
    layer = name_layers_(GatedMLP(10, 40, 3))
    x = torch.randn(4, 10)
    plan = HardPlan({layer.name: torch.full((4,), 2.0)}, k_max={layer.name: [cap] * 4})
    free = open_plan_of(layer, 4, 2.0)
    layer(x, free)
    layer(x, plan)
    wanted = free.traces[layer.name].active
    assert plan.traces[layer.name].active == [min(cap, n) for n in wanted]
    assert plan.traces[layer.name].cap_hits == [int(n > cap) for n in wanted]


def test_gate_macs_stay_under_five_percent_of_a_real_block() -> None:
    layer = GatedMLP(784, 1024, 1024, rank=16)
    assert layer.gate.macs == 16 * (784 + 1024)
    assert layer.gate.macs <= 0.05 * layer.unit_macs * layer.num_units
    assert (MagnitudeGate(4).macs, InputMagnitudeGate(4).macs) == (0, 0)
    assert PooledChannelGate(16, 32, 16).macs == 16 * 16 + 16 * 32


def test_cats_gate_drops_small_branch_values_and_counts_the_branch_as_fixed() -> None:
    layer = name_layers_(GatedGLU(8, 20, gate=MagnitudeGate(20)))
    x = torch.randn(3, 8)
    branch = torch.nn.functional.silu(layer.branch(x))
    threshold = float(branch.detach().abs().median())
    plan = open_plan_of(layer, 3, threshold)
    y = layer(x, plan)
    kept = torch.where(branch.abs() > threshold, branch, torch.zeros(()))
    torch.testing.assert_close(y, layer.down(kept * layer.up(x)))
    trace = plan.traces[layer.name]
    assert trace.macs_active == [8 * 20 + n * 16 for n in trace.active]
    assert trace.macs_dense == [3 * 8 * 20] * 3


def test_state_dict_is_the_same_in_training_and_inference(networks: SimpleNamespace) -> None:
    model = networks.TinyConv("acon_c")
    trained = list(model.state_dict())
    model.eval()
    assert list(model.state_dict()) == trained
    assert "a.core.mean" in trained


def test_soft_gates_carry_gradients_to_gate_and_weights_and_straight_through_is_hard_forward(
    networks: SimpleNamespace,
) -> None:
    for straight_through in (False, True):
        model = networks.TinyMLP()
        plan = SoftPlan(0.4, straight_through=straight_through)
        model(torch.randn(32, 20), plan).square().mean().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
        values = plan.traces["first"].gates
        assert set(values.unique().tolist()) <= {0.0, 1.0} if straight_through else values.std() > 0


def test_quantile_thresholds_hold_the_budget_in_every_batch(networks: SimpleNamespace) -> None:
    model = networks.TinyMLP()
    for budget in (0.1, 0.35, 0.8, 1.0):
        plan = SoftPlan(budget, straight_through=True)
        model(torch.randn(64, 20), plan)
        for trace in plan.traces.values():
            assert float(trace.density.detach()) == pytest.approx(budget, abs=0.01)


def test_conv_means_respect_the_zero_padding_at_the_border() -> None:
    core = GatedConv(nn.Conv2d(2, 6, 3, 1, 1), nn.Conv2d(6, 4, 3, 1, 1))
    name_layers_(core)
    core.eval().mean.uniform_(0.5, 1.0)
    y = core(torch.randn(1, 2, 5, 5), open_plan_of(core, 1, 1e9))
    expected = core.conv2(core.mean[None, :, None, None].expand(1, -1, 5, 5))
    torch.testing.assert_close(y, expected)
    assert not torch.allclose(y[..., 0, 0], y[..., 2, 2])


def test_conv_unit_macs_follow_stride_and_image_size() -> None:
    block = GatedConvBlock(3, 8, stride=2)
    assert block.core.unit_macs_at(9, 9) == 25 * 3 * 9 + 25 * 8 * 9
