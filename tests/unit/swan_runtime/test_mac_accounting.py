"""Reports equal an independent count: hooks on every torch.nn layer of the reference path, and the masks seen there."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from swan_runtime.calibrate import CalibrationConfig, calibrate
from swan_runtime.conv import GatedConv
from swan_runtime.convert import harden_
from swan_runtime.gate import LowRankGate
from swan_runtime.kernels.linear import FIRST_ROWS
from swan_runtime.layers import gated_layers
from swan_runtime.macs import count_macs, dense_macs, fixed_macs
from swan_runtime.runtime import Runtime
from swan_runtime.served import ServedLinear

CONFIG = CalibrationConfig("m", "none", budgets=(0.3, 0.6))


class HookCounter:
    """Counts one row's MACs module by module: a gated product only for its active units, anything else in full."""

    def __init__(self, model: nn.Module) -> None:
        self.macs = 0
        self.masks: dict[str, torch.Tensor] = {}
        self.pending: list[tuple[str, int]] = []  # (layer, MACs of all its units), until the mask is known
        self.handles = []
        owners = {}
        for name, layer in gated_layers(model).items():
            if isinstance(layer, GatedConv):
                owners.update({layer.conv1: name, layer.conv2: name})
            else:
                owners.update({layer.up: name, layer.down: name})
                if getattr(layer, "branch", None) is not None:
                    owners[layer.branch] = name
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                self.handles.append(module.register_forward_hook(self._product(owners.get(module))))

    def _product(self, owner: str | None) -> Any:
        def hook(module: Any, args: Any, out: torch.Tensor) -> None:
            macs = (
                module.weight.numel()
                * out.numel()
                // (out.shape[1] if isinstance(module, nn.Conv2d) else out.shape[-1])
            )
            if owner is None:
                self.macs += macs
            else:
                self.pending.append((owner, macs))

        return hook

    def total(self) -> int:
        for owner, macs in self.pending:
            mask = self.masks[owner]
            assert macs * int(mask.sum()) % mask.numel() == 0
            self.macs += macs * int(mask.sum()) // mask.numel()
        for handle in self.handles:
            handle.remove()
        return self.macs


@torch.no_grad()
def test_reports_equal_the_hooks_exactly(networks: SimpleNamespace) -> None:
    cases = [
        (networks.TinyMLP(), (torch.randn(80, 20),)),
        (networks.TinyConv("meta_acon"), (torch.randn(24, 3, 9, 7),)),
        (networks.TinyEncoder(), (torch.randn(40, 6, 16),)),
    ]
    for model, inputs in cases:
        table = calibrate(model, [inputs], lambda out: 0.0, CONFIG)
        runtime = Runtime(model, table)
        for budget in (0.3, 0.45, 1.0):
            for row in range(3):
                one = (inputs[0][row : row + 1],)
                _, (report,) = runtime.infer(one, [budget])
                plan = runtime.plan([budget])
                counter = HookCounter(model)
                plan.observer = counter.masks.__setitem__
                model(*one, plan=plan)
                assert report.macs == counter.total() + lowrank_macs(model, one[0])


def lowrank_macs(model: nn.Module, x: torch.Tensor) -> int:
    """Low-rank gates multiply bare parameters, which no hook sees: all their elements, once per token or row."""
    gates = [layer.gate for layer in gated_layers(model).values() if isinstance(layer.gate, LowRankGate)]
    positions = x.shape[1] if x.dim() == 3 else 1
    return sum(gate.project.numel() + gate.expand.numel() for gate in gates) * positions


@torch.no_grad()
def test_dense_macs_are_the_closed_form_and_fixed_macs_what_remains(networks: SimpleNamespace) -> None:
    model, x = networks.TinyMLP(), torch.randn(7, 20)
    assert dense_macs(model, (x,)) == 7 * (20 * 48 + 48 * 24 + 24 * 32 + 32 * 16 + 16 * 5)
    assert fixed_macs(model, (x,)) == [16 * 5] * 7


@torch.no_grad()
def test_attention_and_convolutions_are_counted() -> None:
    query = torch.randn(2, 3, 5, 4)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert count_macs(attend, query, query, query) == 2 * 3 * 5 * 5 * 8
    assert count_macs(nn.Conv2d(3, 4, 3, stride=2), torch.randn(2, 3, 9, 9)) == 2 * 4 * 4 * 4 * 27
    assert count_macs(torch.bmm, torch.randn(2, 3, 4), torch.randn(2, 4, 5)) == 2 * 3 * 4 * 5


def test_counting_does_not_depend_on_inference_mode() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3 * 4 * 4, 5))
    with torch.inference_mode():
        assert count_macs(model, torch.randn(2, 2, 6, 6)) == 2 * (3 * 16 * 18 + 48 * 5)


@torch.no_grad()
def test_hardening_hides_no_product_from_the_count() -> None:
    layer, x = ServedLinear(12, 7), torch.randn(FIRST_ROWS, 12)
    counted = count_macs(layer, x)
    harden_(nn.Sequential(layer))
    assert layer.packed is not None
    assert count_macs(layer, x) == counted == FIRST_ROWS * 12 * 7
    assert layer.packed is not None


def test_a_model_may_count_its_own_fixed_macs(networks: SimpleNamespace) -> None:
    class Ragged(networks.TinyMLP):  # type: ignore[name-defined,misc]
        def fixed_macs(self, x: torch.Tensor) -> list[int]:
            return [10 * i for i in range(len(x))]

    model = Ragged()
    runtime = Runtime(model, calibrate(model, [(torch.randn(30, 20),)], lambda out: 0.0, CONFIG))
    _, reports = runtime.infer(torch.randn(3, 20), [0.3, 0.5, 1.0])
    assert [report.macs_fixed for report in reports] == [0, 10, 20]
