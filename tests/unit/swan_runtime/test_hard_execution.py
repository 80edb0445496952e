"""Packed weights give what the reference path gives, with the same counts; the Runtime refuses what it must."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from swan_runtime.bind import GatedModel
from swan_runtime.budget import BudgetPoint, CalibrationTable
from swan_runtime.calibrate import CalibrationConfig, calibrate, set_means_
from swan_runtime.checkpoint import fingerprint
from swan_runtime.conv import GatedConvBlock
from swan_runtime.convert import harden_, soften_
from swan_runtime.errors import CalibrationError, InvalidInputError
from swan_runtime.gate import LowRankGate
from swan_runtime.layers import GatedFFN, GatedLayer, GatedMLP, gated_layers, name_layers_
from swan_runtime.plan import HardPlan
from swan_runtime.runtime import Runtime

CONFIG = CalibrationConfig("tiny", "zero", budgets=(0.2, 0.5, 1.0))


def randomise_(model: nn.Module) -> nn.Module:
    """Non-trivial means and BatchNorm statistics, as after training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
        if isinstance(module, GatedLayer):
            module.mean.normal_(0, 0.3)
    return model.eval()


def plan_for(model: nn.Module, rows: int, reference: bool) -> HardPlan:
    values = torch.linspace(1.0, 3.0, rows)
    return HardPlan({name: values.clone() for name in gated_layers(model)}, reference=reference)


def cases(networks: SimpleNamespace) -> list[tuple[nn.Module, tuple[Any, ...]]]:
    deviation = GatedMLP(9, 30, 6, gate=LowRankGate(9, 30, 3, score="deviation"))
    deviation.gate.norm.fill_(4.0)
    return [
        (networks.TinyMLP(), (torch.randn(6, 20),)),
        (networks.TinyEncoder(), (torch.randn(4, 7, 16), [7, 1, 3, 5])),
        *((networks.TinyConv(act), (torch.randn(3, 3, 8, 8),)) for act in ("relu", "acon_a", "acon_b", "meta_acon")),
        (GatedModel(nn.Sequential(nn.Linear(9, 9), deviation)), (torch.randn(5, 9),)),
        (GatedModel(GatedFFN(8, 24, 3, granularity="request", pool="input")), (torch.randn(3, 5, 8),)),
    ]


@torch.no_grad()
def test_packed_layers_equal_the_reference_in_values_and_counts(networks: SimpleNamespace) -> None:
    for model, inputs in cases(networks):
        harden_(randomise_(model))
        rows = len(inputs[0])
        reference, packed = plan_for(model, rows, True), plan_for(model, rows, False)
        expected, got = model(*inputs, plan=reference), model(*inputs, plan=packed)
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)
        assert list(packed.traces) == list(reference.traces) == list(gated_layers(model))
        for name, trace in packed.traces.items():
            other = reference.traces[name]
            assert (trace.active, trace.total) == (other.active, other.total)
            assert (trace.macs_active, trace.macs_gate, trace.macs_dense) == (
                other.macs_active,
                other.macs_gate,
                other.macs_dense,
            )
            assert other.kernel == "reference"
        assert any(0 < a < t for name in packed.traces for a, t in zip(*counts(packed, name), strict=True))


def counts(plan: HardPlan, name: str) -> tuple[list[int], list[int]]:
    return plan.traces[name].active, plan.traces[name].total


@torch.no_grad()
def test_packed_caps_keep_the_top_scores_and_count_per_row() -> None:
    layer = name_layers_(GatedMLP(10, 40, 3))
    harden_(layer)
    x = torch.randn(4, 10)
    plans = [
        HardPlan({"layer": torch.full((4,), 2.0)}, {"layer": [3, 40, 0, 5]}, reference=reference)
        for reference in (True, False)
    ]
    torch.testing.assert_close(layer(x, plans[1]), layer(x, plans[0]), atol=1e-5, rtol=1e-4)
    assert plans[1].traces["layer"].cap_hits == plans[0].traces["layer"].cap_hits == [1, 0, 1, 1]
    assert plans[1].traces["layer"].active[2] == 0


@torch.no_grad()
def test_a_block_folds_its_second_norm_only_on_the_packed_path() -> None:
    block = GatedConvBlock(3, 8, 2)
    harden_(name_layers_(randomise_(block)))
    x = torch.randn(2, 3, 9, 9)
    open_gates = {"core": torch.full((2,), -1e30)}
    torch.testing.assert_close(block(x, HardPlan(open_gates)), block(x), atol=1e-5, rtol=1e-4)


def test_hardening_changes_no_state_and_training_or_loading_drops_it(networks: SimpleNamespace) -> None:
    model = networks.TinyMLP()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    harden_(model)
    assert model.first.packed is not None
    assert list(model.state_dict()) == list(before)
    model.load_state_dict(before)
    assert model.first.packed is None
    assert harden_(model).first.packed is not None
    assert model.train().first.packed is None
    assert soften_(harden_(model)).first.packed is None


@pytest.fixture
def runtime(networks: SimpleNamespace) -> Runtime:
    model, x = networks.TinyMLP(), networks.blobs(600)[0]
    set_means_(model, [(x,)])
    return Runtime(model, calibrate(model, [(x,)], lambda out: 0.0, CONFIG))


def test_a_mixed_batch_equals_its_rows_one_by_one(runtime: Runtime, networks: SimpleNamespace) -> None:
    x = networks.blobs(5, seed=3)[0]
    budgets = [0.2, 1.0, 0.37, 0.5, 0.01]
    runtime.warm_up(x)
    together, reports = runtime.infer(x, budgets)
    for i, budget in enumerate(budgets):
        alone, (report,) = runtime.infer(x[i : i + 1], [budget])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)
        assert [layer.units_active for layer in report.layers] == [layer.units_active for layer in reports[i].layers]
        assert reports[i].budget == budget
    assert reports[1].activity == 1.0
    assert reports[1].macs_active == reports[1].macs_dense
    assert reports[4].macs < reports[1].macs


def test_an_empty_batch_is_an_empty_answer(runtime: Runtime) -> None:
    outputs, reports = runtime.infer(torch.zeros(0, 20), [])
    assert outputs.shape == (0, 5)
    assert reports == ()


@pytest.mark.parametrize(
    ("inputs", "budgets", "field"),
    [
        (torch.zeros(2, 20), [0.5], "budgets"),
        (torch.zeros(1, 20), [0.0], "budget"),
        (torch.zeros(1, 20), [1.5], "budget"),
        (torch.zeros(1, 20), [float("nan")], "budget"),
        (torch.full((1, 20), float("nan")), [0.5], "inputs[0]"),
        (torch.full((1, 20), float("inf")), [0.5], "inputs[0]"),
        (torch.full((1, 20), 3e38), [0.5], "first.scores"),
    ],
)
def test_bad_input_names_the_field(runtime: Runtime, inputs: Tensor, budgets: list[float], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        runtime.infer(inputs, budgets)
    assert caught.value.field == field


def test_a_table_of_other_weights_or_layers_is_refused(networks: SimpleNamespace) -> None:
    model = networks.TinyMLP()
    table = calibrate(model, [(networks.blobs(50)[0],)], lambda out: 0.0, CONFIG)
    with torch.no_grad():
        model.head.weight.add_(1.0)
    with pytest.raises(CalibrationError, match="fingerprint"):
        Runtime(model, table)
    renamed = {"other": 0.0}
    point = BudgetPoint(1.0, renamed, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    with pytest.raises(CalibrationError, match="layers"):
        Runtime(model, CalibrationTable("m", fingerprint(model), "a", 1, 1.0, (point,)))
    good = calibrate(model, [(networks.blobs(50)[0],)], lambda out: 0.0, CONFIG)
    with pytest.raises(InvalidInputError, match="threads"):
        Runtime(model, good, threads=0)


def test_caps_bound_an_input_that_opens_every_gate(runtime: Runtime) -> None:
    gate = runtime.model.first.gate
    x = torch.zeros(1, 20, requires_grad=True)
    for _ in range(50):  # the attack: push every score up by gradient ascent on the input
        (gradient,) = torch.autograd.grad(gate.scores(x).clamp_max(20).sum(), x)
        x = (x + gradient).detach().requires_grad_()
    _, (report,) = runtime.infer(x.detach(), [0.2])
    cap = runtime.table.at(0.2).k_max["first"]
    assert report.layers[0].units_active <= cap < 48
    assert report.layers[0].cap_hits == 1


def test_fired_units_add_up_to_the_report(runtime: Runtime, networks: SimpleNamespace) -> None:
    x = networks.blobs(1, seed=5)[0]
    fired = runtime.fired_units(x, 0.5)
    _, (report,) = runtime.infer(x, [0.5])
    assert {name: int(share.sum()) for name, share in fired.items()} == {
        layer.name: layer.units_active for layer in report.layers
    }


def test_threads_share_one_runtime_and_one_bound_user_module(networks: SimpleNamespace) -> None:
    inner = nn.Sequential(nn.Linear(20, 20), nn.Sequential(GatedMLP(20, 32, 20), nn.ReLU()), nn.Linear(20, 3))
    model, x = GatedModel(inner), networks.blobs(64)[0]
    runtime = Runtime(model, calibrate(model, [(x,)], lambda out: 0.0, CONFIG))
    budgets = [0.2, 0.5, 1.0, 0.31]
    expected = {budget: runtime.infer(x, [budget] * 64) for budget in budgets}
    failures: list[str] = []

    def work(budget: float) -> None:
        for _ in range(20):
            outputs, reports = runtime.infer(x, [budget] * 64)
            if not torch.equal(outputs, expected[budget][0]) or reports != expected[budget][1]:
                failures.append(str(budget))

    threads = [threading.Thread(target=work, args=(budget,)) for budget in budgets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
