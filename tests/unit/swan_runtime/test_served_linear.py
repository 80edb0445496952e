"""A plain layer of a hardened model: torch's values, and nothing packed where weights may change."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from swan_runtime.convert import harden_, soften_
from swan_runtime.served import ServedLinear


@pytest.mark.parametrize("shape", [(40, 33), (2, 20, 33), (1, 33), (0, 33)])
@pytest.mark.parametrize("bias", [True, False])
def test_hardening_changes_no_value(shape: tuple[int, ...], bias: bool) -> None:
    layer = ServedLinear(33, 50, bias=bias)
    x = torch.randn(*shape)
    with torch.inference_mode():
        plain = layer(x)
        served = harden_(nn.Sequential(layer))(x)
        assert layer.packed is not None
        torch.testing.assert_close(served, plain)
        torch.testing.assert_close(soften_(nn.Sequential(layer))(x), plain)
    assert layer.packed is None


def test_weights_are_shared_so_that_a_change_in_place_is_served() -> None:
    layer = ServedLinear(16, 8)
    harden_(nn.Sequential(layer))
    with torch.no_grad():
        layer.weight.mul_(2.0)
        x = torch.randn(12, 16)
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_gradients_flow_through_a_packed_layer() -> None:
    layer = ServedLinear(16, 8)
    harden_(nn.Sequential(layer))
    x = torch.randn(12, 16, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is not None


def test_copies_training_and_loading_drop_the_packed_weights() -> None:
    layer = ServedLinear(16, 8)
    model = harden_(nn.Sequential(layer))
    duplicate = copy.deepcopy(model)
    assert isinstance(duplicate[0], ServedLinear) and duplicate[0].packed is None  # type: ignore[index]
    model.load_state_dict(duplicate.state_dict())
    assert layer.packed is None
    harden_(model).train()
    assert layer.packed is None


def test_double_precision_stays_with_torch() -> None:
    layer = ServedLinear(16, 8, dtype=torch.float64)
    harden_(nn.Sequential(layer))
    assert layer.packed is None
    assert layer(torch.randn(12, 16, dtype=torch.float64)).dtype is torch.float64
