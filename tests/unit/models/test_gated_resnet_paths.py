"""The packed residual network computes what its reference path computes, with and without the native library."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from models.gated_resnet import GatedResNet, GatedResNetConfig, folded
from swan_runtime.convert import harden_
from swan_runtime.kernels import dispatch
from swan_runtime.layers import gated_layers
from swan_runtime.plan import HardPlan


@pytest.mark.parametrize("without_library", [False, True])
@torch.no_grad()
def test_the_hardened_network_equals_its_reference_path(without_library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if without_library:
        for module in ("swan_runtime.pack_conv", "swan_runtime.kernels.dispatch", "swan_runtime.kernels.ops"):
            monkeypatch.setattr(f"{module}.library", lambda: None)
        monkeypatch.setattr(dispatch, "_tables", {})
        monkeypatch.setattr(dispatch, "_cache_file", lambda key: None)
    torch.manual_seed(1)
    network = GatedResNet(GatedResNetConfig(widths=(16, 24))).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    for model in (network, folded(network)):
        harden_(model)
        x, rows = torch.rand(6, 784), 6
        for threshold in (-torch.inf, 0.5, torch.inf):
            plans = SimpleNamespace(
                fast=HardPlan.uniform(dict.fromkeys(gated_layers(model), threshold), rows),
                slow=HardPlan.uniform(dict.fromkeys(gated_layers(model), threshold), rows, reference=True),
            )
            torch.testing.assert_close(model(x, plans.fast), model(x, plans.slow), rtol=1e-4, atol=1e-4)
            for name, trace in plans.fast.traces.items():
                assert trace.macs_active == plans.slow.traces[name].macs_active
                assert trace.kernel != "reference"
        torch.testing.assert_close(model(x, plans.slow), model.train(False)(x, plans.slow))


def test_the_switch_and_the_tail_are_forgotten_with_the_packed_copy() -> None:
    network = harden_(GatedResNet(GatedResNetConfig(widths=(16,), activation="relu")))
    core = network.blocks[0].core
    assert core.packed is not None
    assert core.tail is not None and core.tail.relu and core.tail.shortcut is None
    network.train()
    assert core.packed is None
    assert network(torch.rand(2, 784)).shape == (2, 10)
