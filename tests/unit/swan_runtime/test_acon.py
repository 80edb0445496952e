"""ACON follows the paper's formulas and limits; the switching factor is readable per request."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swan_runtime.activations import AconA, AconB, AconC, MetaAcon, acon, conv_activation

X = torch.linspace(-4, 4, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)


@settings(max_examples=30, deadline=None)
@given(p1=st.floats(-2, 2), p2=st.floats(-2, 2), beta=st.floats(-3, 3))
def test_acon_is_the_papers_formula(p1: float, p2: float, beta: float) -> None:
    x = X.double()
    got = acon(x, *(torch.tensor(v, dtype=torch.float64) for v in (p1, p2, beta)))
    expected = (p1 - p2) * x / (1 + torch.exp(-beta * (p1 - p2) * x)) + p2 * x
    torch.testing.assert_close(got, expected)


def test_beta_switches_between_maximum_and_linear() -> None:
    layer = AconC(3)
    with torch.no_grad():
        layer.beta.fill_(1e4)
        p1, p2 = layer.p1[:, None, None], layer.p2[:, None, None]
        torch.testing.assert_close(layer(X), torch.maximum(p1 * X, p2 * X), atol=1e-3, rtol=1e-3)
        layer.beta.zero_()
        torch.testing.assert_close(layer(X), (p1 + p2) / 2 * X)
    assert layer.switching_factor(X).shape == (2, 3)


def test_acon_a_is_swish_and_acon_b_starts_like_a_leaky_maximum() -> None:
    torch.testing.assert_close(AconA(3)(X), torch.nn.functional.silu(X))
    expected = 0.75 * X * torch.sigmoid(0.75 * X) + 0.25 * X
    torch.testing.assert_close(AconB(3)(X), expected)


def test_meta_acon_switches_per_request_on_its_context() -> None:
    layer = MetaAcon(3, context_channels=5).eval()
    context = torch.randn(2, 5, 6, 6) * 3
    beta = layer.switching_factor(context)
    assert beta.shape == (2, 3)
    assert bool(((beta > 0) & (beta < 1)).all())
    assert not torch.allclose(beta[0], beta[1])
    expected = acon(X, layer.p1[:, None, None], layer.p2[:, None, None], beta[:, :, None, None])
    torch.testing.assert_close(layer(X, context), expected)
    assert layer.macs == 5 * 16 + 16 * 3
    torch.testing.assert_close(MetaAcon(3).eval()(X).shape, X.shape)


@pytest.mark.parametrize("name", ["relu", "acon_a", "acon_b", "acon_c", "meta_acon"])
def test_every_named_activation_keeps_the_shape_and_trains(name: str) -> None:
    layer = conv_activation(name, 3)
    x = X.clone().requires_grad_()
    layer(x).square().sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is not None for parameter in layer.parameters())
