"""Losses have the values and gradients their papers state; schedules start, end and are monotone as documented."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from swan_runtime import losses, schedule
from swan_runtime.plan import SoftTrace, total_density


def traces(*densities: float, unit_macs: tuple[int, ...] = (1, 1, 1)) -> dict[str, SoftTrace]:
    return {
        str(i): SoftTrace(torch.zeros(10, 20), torch.full((10, 20), d, requires_grad=True), unit_macs[i])
        for i, d in enumerate(densities)
    }


@settings(max_examples=40, deadline=None)
@given(a=st.floats(0.2, 5.0), b=st.floats(0.2, 5.0), seed=st.integers(0, 100))
def test_beta_cdf_equals_scipy(a: float, b: float, seed: int) -> None:
    x = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x = torch.cat([x, torch.tensor([0.0, 1e-9, 0.5, 1 - 1e-9, 1.0], dtype=torch.float64)])
    np.testing.assert_allclose(losses.beta_cdf(x, a, b).numpy(), stats.beta.cdf(x.numpy(), a, b), atol=1e-8)


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.4), (2.0, 3.0), (0.3, 0.7)])
def test_beta_cdf_gradient_is_the_density(a: float, b: float) -> None:
    x = torch.linspace(0.05, 0.95, 19, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: losses.beta_cdf(v, a, b), (x,))


def test_beta_cdf_gradient_is_clipped_where_the_density_is_not_finite() -> None:
    x = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    losses.beta_cdf(x, 0.6, 0.4).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [100.0, 100.0]
    y = torch.tensor([1e-9], dtype=torch.float64, requires_grad=True)
    losses.beta_cdf(y, 3.0, 3.0).sum().backward()
    assert y.grad is not None
    assert y.grad.tolist() == [1e-3]


def test_batch_shaping_is_least_for_gates_that_follow_the_prior() -> None:
    follows = torch.from_numpy(stats.beta.ppf(np.arange(1, 101) / 101, 0.6, 0.4)).float()[:, None]
    value = losses.batch_shaping_loss({"a": SoftTrace(follows, follows, 1)})
    stuck = losses.batch_shaping_loss({"a": SoftTrace(follows, torch.full_like(follows, 0.5), 1)})
    assert float(value) == pytest.approx(0.0, abs=1e-6)
    assert float(stuck) > 0.05


def test_descending_batch_shaping_spreads_the_gates() -> None:
    gates = torch.full((200, 1), 0.5) + torch.linspace(-0.01, 0.01, 200)[:, None]
    gates.requires_grad_()
    optimizer = torch.optim.Adam([gates], 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        losses.batch_shaping_loss({"a": SoftTrace(gates, gates.clamp(0, 1), 1)}).backward()
        optimizer.step()
    quantiles = torch.quantile(gates.detach().clamp(0, 1), torch.tensor([0.2, 0.5, 0.8])).numpy()
    np.testing.assert_allclose(quantiles, stats.beta.ppf([0.2, 0.5, 0.8], 0.6, 0.4), atol=0.05)


def test_budget_loss_is_one_sided_and_weighted_by_macs() -> None:
    two = traces(0.2, 0.8, unit_macs=(3, 1, 1))
    assert float(total_density(two).detach()) == pytest.approx((0.2 * 3 + 0.8) / 4)
    assert float(losses.budget_loss(two, 0.5).detach()) == 0.0
    over = losses.budget_loss(two, 0.25)
    assert float(over.detach()) == pytest.approx(0.1)
    over.backward()
    grads = [trace.gates.grad for trace in two.values()]
    assert grads[0] is not None
    assert grads[1] is not None
    assert float(grads[0].sum() / grads[1].sum()) == pytest.approx(3.0)


def test_band_loss_pins_layers_on_both_sides() -> None:
    assert float(losses.band_loss(traces(0.35, 0.45), 0.4, 0.1).detach()) == 0.0
    assert float(losses.band_loss(traces(0.1, 0.9), 0.5, 0.1).detach()) == pytest.approx(0.09)


def test_liveness_pulls_dead_units_up_and_full_layers_down() -> None:
    scores = torch.randn(50, 2, requires_grad=True)
    gates = torch.stack([torch.zeros(50), torch.rand(50)], 1)
    losses.liveness_loss({"a": SoftTrace(scores, gates, 1)}).backward()
    assert scores.grad is not None
    assert (scores.grad[:, 0] < 0).all()
    assert (scores.grad[:, 1] == 0).all()
    full = traces(1.0)
    losses.liveness_loss(full).backward()
    assert full["0"].gates.grad is not None
    assert (full["0"].gates.grad > 0).all()


def test_distillation_and_embedding_losses_vanish_on_the_teacher_only() -> None:
    logits = torch.randn(8, 5)
    assert float(losses.distillation_loss(logits, logits).detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(losses.distillation_loss(logits, -logits).detach()) > 0.1
    assert float(losses.embedding_loss(logits, 3 * logits).detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(losses.embedding_loss(logits, -logits).detach()) == pytest.approx(2.0, abs=1e-5)
    assert float(losses.l0_loss(traces(0.2, 0.6)).detach()) == pytest.approx(0.4)


def test_schedules_meet_their_end_points() -> None:
    assert [schedule.exponential(p, 1.0, 0.01) for p in (0, 0.5, 1, 2)] == pytest.approx([1.0, 0.1, 0.01, 0.01])
    assert [schedule.linear_decay(p, 0.75, 0.2) for p in (0, 0.1, 0.2, 1)] == pytest.approx([0.75, 0.375, 0, 0])
    assert [schedule.ramp(p, 4.0, 0.2, 0.6) for p in (0, 0.2, 0.4, 0.6, 1)] == pytest.approx([0, 0, 2, 4, 4])
    assert [schedule.cosine_release(p, 2.0, 0.3) for p in (0, 0.15, 0.3, 1)] == pytest.approx([2, 1, 0, 0])
    assert schedule.nominal_threshold(0.5) == pytest.approx(0.0)


@given(low=st.floats(0.01, 0.5), extra=st.integers(0, 4), seed=st.integers(0, 99))
def test_the_sandwich_always_has_both_ends(low: float, extra: int, seed: int) -> None:
    budgets = schedule.SandwichSampler(low, 1.0, extra).sample(random.Random(seed))
    assert budgets[:2] == (1.0, low)
    assert len(budgets) == 2 + extra
    assert all(low * 0.999 <= b <= 1.001 for b in budgets)
