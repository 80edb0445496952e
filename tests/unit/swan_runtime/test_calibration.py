"""A network trained soft over random budgets, calibrated: budgets are kept, tables are monotone, reports are exact."""

import random
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from swan_runtime.budget import OPEN, BudgetPoint, CalibrationTable
from swan_runtime.calibrate import CalibrationConfig, calibrate, measure, serve_points, set_means_
from swan_runtime.errors import CalibrationError
from swan_runtime.losses import budget_loss, distillation_loss
from swan_runtime.plan import SoftPlan
from swan_runtime.schedule import SandwichSampler, exponential

CONFIG = CalibrationConfig("tiny", "accuracy", budgets=(0.1, 0.2, 0.4, 0.7, 1.0))


def train(networks: SimpleNamespace, steps: int = 200) -> nn.Module:
    model = networks.TinyMLP()
    x, labels = networks.blobs(1024)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    source, sampler = random.Random(0), SandwichSampler(0.1)
    for step in range(steps):
        optimizer.zero_grad()
        teacher: Tensor | None = None
        part = torch.randint(0, len(x), (128,))
        for budget in sampler.sample(source):
            plan = SoftPlan(budget, exponential(step / steps, 1.0, 0.1))
            logits = model(x[part], plan)
            loss = nn.functional.cross_entropy(logits, labels[part]) + budget_loss(plan.traces, budget)
            if teacher is not None:
                loss = loss + distillation_loss(logits, teacher)
            teacher = logits.detach() if teacher is None else teacher
            loss.backward()
        optimizer.step()
    return model.eval()


def test_one_network_keeps_every_budget_and_its_table_is_monotone(networks: SimpleNamespace) -> None:
    model = train(networks)
    x, labels = networks.blobs(1500, seed=1)
    table = calibrate(
        model, [(part,) for part in x.split(500)], lambda out: float((out.argmax(1) == labels).float().mean()), CONFIG
    )
    assert table.n == 1500
    assert table.points[-1].quality > 0.95
    assert table.at(0.4).quality > 0.9
    assert table.points[0].quality > 0.6  # five classes: chance is 0.2
    assert table.points[-1].activity_mean == 1.0
    assert set(table.points[-1].thresholds.values()) == {OPEN}
    for point in table.points:
        assert point.activity_mean == pytest.approx(point.budget, abs=0.02)
        assert point.activity_mean <= point.activity_p99 <= 1.0
        assert point.macs_mean <= point.macs_p99
    middle = 0.5 * (table.points[0].budget + table.points[1].budget)
    seen = measure(model, [(x,)], table.at(middle).thresholds)
    assert float(seen.activity.mean()) == pytest.approx(table.at(middle).activity_mean, abs=0.03)
    assert CalibrationTable.from_json(table.to_json()) == table


def test_a_shared_threshold_meets_the_budget_over_all_layers(networks: SimpleNamespace) -> None:
    model, x = networks.TinyMLP(), networks.blobs(400)[0]
    config = CalibrationConfig("tiny", "none", budgets=(0.3, 0.6), shared_threshold=True)
    table = calibrate(model, [(x,)], lambda out: 1.0, config)
    for point in table.points:
        assert len(set(point.thresholds.values())) == 1
        assert point.activity_mean == pytest.approx(point.budget, abs=0.02)


def test_calibration_covers_tokens_requests_and_images(networks: SimpleNamespace) -> None:
    for model, batch in (
        (networks.TinyEncoder(), (torch.randn(64, 5, 16), [1, 2, 3, 5] * 16)),
        (networks.TinyConv(), (torch.randn(64, 3, 8, 8),)),
    ):
        table = calibrate(model, [batch], lambda out: float(-out.var() * 0), CONFIG)
        assert len(table.points) >= 2
        for point in table.points:
            assert point.activity_mean == pytest.approx(point.budget, abs=0.05)
            assert set(point.k_max) == set(table.layers)


def test_means_are_the_units_mean_values(networks: SimpleNamespace) -> None:
    model, x = networks.TinyMLP(), networks.blobs(300)[0]
    set_means_(model, [(x[:100],), (x[100:],)])
    torch.testing.assert_close(model.first.mean, torch.relu(model.first.up(x)).mean(0))
    conv, images = networks.TinyConv(), torch.randn(10, 3, 6, 6)
    set_means_(conv, [(images,)])
    torch.testing.assert_close(conv.a.core.mean, conv.eval().a.core.unit_values(images).mean((0, 2, 3)))


def test_only_points_on_the_hull_are_served_and_lucky_small_budgets_get_no_credit() -> None:
    def point(budget: float, quality: float) -> BudgetPoint:
        return BudgetPoint(budget, {"a": -budget}, budget, budget, budget, 100 * budget, 100 * budget, quality)

    served = serve_points([point(0.1, 0.5), point(0.3, 0.55), point(0.5, 0.8), point(0.7, 0.92), point(1.0, 0.9)])
    assert [p.budget for p in served] == [0.1, 0.5, 0.7, 1.0]
    assert [p.quality for p in served] == [0.5, 0.8, 0.9, 0.9]


def test_towards_open_gates_the_lower_point_is_served_as_it_is() -> None:
    low = BudgetPoint(0.5, {"a": 1.0}, 0.5, 0.5, 0.5, 50.0, 50.0, 0.8, {"a": 3})
    high = BudgetPoint(1.0, {"a": OPEN}, 1.0, 1.0, 1.0, 100.0, 100.0, 0.9, {"a": 5})
    at = CalibrationTable("m", "f", "accuracy", 1, 100.0, (low, high)).at(0.75)
    assert CalibrationTable("m", "f", "accuracy", 1, 100.0, (low, high)).at(1.0) == high
    assert (at.budget, at.thresholds, at.activity_mean, at.quality, at.k_max) == (0.75, {"a": 1.0}, 0.5, 0.8, {"a": 3})


def test_nothing_to_calibrate_is_refused(networks: SimpleNamespace) -> None:
    with pytest.raises(CalibrationError, match="gated layer"):
        calibrate(nn.Linear(2, 2), [(torch.zeros(1, 2),)], lambda out: 0.0, CONFIG)
    with pytest.raises(CalibrationError, match="at least one row"):
        calibrate(networks.TinyMLP(), [], lambda out: 0.0, CONFIG)
