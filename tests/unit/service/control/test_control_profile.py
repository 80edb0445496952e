"""The service-time model: grid, inverse, fit and its refusals, online correction."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.control.profile import Sample, ServiceProfile, Slowdown, fit_profile

BUDGETS = (0.1, 0.3, 0.5, 0.75, 1.0)
BATCHES = (1, 2, 4, 8)


def samples_of(time, repeats=3):
    return [Sample(rows, budget, time(rows, budget)) for rows in BATCHES for budget in BUDGETS for _ in range(repeats)]


def test_affine_times_are_recognised_and_reproduced_between_the_measured_points():
    fit = fit_profile(samples_of(lambda rows, budget: 0.002 + rows * (0.001 + 0.008 * budget)))
    assert fit.kind == "affine"
    assert fit.adaptive
    assert fit.relative_error < 1e-9
    assert fit.profile.seconds(0.6, 3) == pytest.approx(0.002 + 3 * (0.001 + 0.008 * 0.6))


def test_a_curve_with_a_knee_becomes_a_table_that_meets_every_measured_point():
    def time(rows, budget):
        return rows * (0.001 if budget <= 0.5 else 0.001 + 0.02 * (budget - 0.5))

    fit = fit_profile(samples_of(time))
    assert fit.kind == "table"
    assert fit.adaptive
    assert fit.relative_error < 1e-9
    assert fit.profile.seconds(0.75, 4) == pytest.approx(time(4, 0.75))


def test_times_that_fall_with_the_budget_forbid_adapting():
    fit = fit_profile(samples_of(lambda rows, budget: rows * 0.01 * (1.2 - budget)))
    assert not fit.adaptive
    assert any("monotone" in problem for problem in fit.problems)


def test_a_budget_without_effect_forbids_adapting():
    fit = fit_profile(samples_of(lambda rows, budget: rows * 0.01))
    assert not fit.adaptive
    assert any("does not move" in problem for problem in fit.problems)


def test_one_batch_size_is_enough_for_a_table():
    fit = fit_profile([Sample(1, budget, 0.01 * budget) for budget in BUDGETS])
    assert fit.adaptive
    assert fit.profile.seconds(0.5, 1) == pytest.approx(0.005)
    assert fit.profile.seconds(0.5, 3) == pytest.approx(0.015)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_a_time_that_is_no_time_is_refused(seconds):
    with pytest.raises(ValueError, match="finite and above 0"):
        fit_profile([Sample(1, 1.0, seconds)])


def test_a_hole_in_the_grid_is_named():
    with pytest.raises(ValueError, match=r"\(2, 1.0\)"):
        fit_profile([Sample(1, 0.5, 0.1), Sample(1, 1.0, 0.2), Sample(2, 0.5, 0.3)])
    with pytest.raises(ValueError, match="at all"):
        fit_profile([])


@pytest.mark.parametrize(
    ("budgets", "batches", "grid", "message"),
    [
        ((0.5, 0.1), (1,), [[1, 2]], "budgets must be ascending"),
        ((0.1, 0.5), (2, 4), [[1, 2], [2, 3]], "start at 1"),
        ((0.1, 0.5), (1, 2), [[1, 2]], "2 x 2"),
        ((0.1, 0.5), (1,), [[0, 2]], "above 0"),
        ((0.1, 0.5), (1,), [[2, 1]], "fall with the budget"),
        ((0.1, 0.5), (1, 2), [[2, 3], [1, 2]], "fall with the rows"),
    ],
)
def test_a_grid_that_is_no_profile_is_refused(budgets, batches, grid, message):
    with pytest.raises(ValueError, match=message):
        ServiceProfile(budgets, batches, grid)


@st.composite
def profiles(draw):
    steps = draw(st.lists(st.lists(st.floats(0.0, 0.01), min_size=3, max_size=3), min_size=2, max_size=4))
    grid, below = [], [0.001, 0.001, 0.001]
    for row in steps:
        line, level = [], 0.0
        for j, step in enumerate(row):
            level = max(level, below[j]) + step
            line.append(level)
        grid.append(line)
        below = line
    return ServiceProfile((0.2, 0.5, 1.0), tuple(2**i for i in range(len(grid))), grid)


@given(profiles(), st.floats(0.05, 1.2), st.floats(0.05, 1.2), st.integers(1, 20))
def test_time_never_falls_with_budget_or_rows(profile, a, b, rows):
    low, high = min(a, b), max(a, b)
    assert profile.seconds(low, rows) <= profile.seconds(high, rows) + 1e-12
    assert profile.seconds(low, rows) <= profile.seconds(low, rows + 1) + 1e-12


@given(profiles(), st.floats(0.0, 0.1), st.integers(1, 12))
def test_the_inverse_is_the_largest_budget_that_fits(profile, seconds, rows):
    budget = profile.budget_for(seconds, rows)
    if profile.seconds(0.2, rows) <= seconds:
        assert profile.seconds(budget, rows) <= seconds + 1e-9
    else:
        assert budget == 0.2
    if budget < 1.0:
        assert profile.seconds(min(1.0, budget + 1e-3), rows) >= min(seconds, profile.seconds(1.0, rows)) - 1e-9


@given(profiles(), st.floats(0.0, 0.1))
def test_the_largest_batch_is_the_largest_that_fits(profile, seconds):
    rows = profile.largest_batch(0.5, seconds, 8)
    assert 1 <= rows <= 8
    assert rows == 1 or profile.seconds(0.5, rows) <= seconds
    assert rows == 8 or profile.seconds(0.5, rows + 1) > seconds


def test_the_slowdown_converges_and_its_sigma_follows_the_spread():
    slowdown = Slowdown()
    for i in range(400):
        slowdown.update(0.01, 0.014 if i % 2 else 0.016)
    assert slowdown.kappa == pytest.approx(1.5, abs=0.03)
    assert slowdown.sigma == pytest.approx(0.1, abs=0.03)


def test_one_huge_stall_cannot_poison_the_slowdown():
    slowdown = Slowdown(kappa=1.0, variance=0.0)
    slowdown.update(0.01, 100.0)
    assert slowdown.kappa <= 1.15 + 1e-9
    assert slowdown.clipped_in_a_row == 1
    for _ in range(100):
        slowdown.update(0.01, 0.01)
    assert slowdown.kappa == pytest.approx(1.0, abs=0.01)
    assert slowdown.clipped_in_a_row == 0


def test_a_profile_taken_on_a_busy_machine_is_forgotten_within_a_dozen_batches():
    slowdown = Slowdown()
    for _ in range(12):
        slowdown.update(0.14, 0.025)
    assert slowdown.kappa < 2 * 0.025 / 0.14


def test_lulls_of_a_busy_machine_do_not_pass_for_its_speed():
    slowdown = Slowdown(kappa=1.5)
    for i in range(400):
        slowdown.update(0.01, 0.015 if i % 3 else 0.006)
    assert slowdown.kappa == pytest.approx(1.2, abs=0.05)


@pytest.mark.parametrize("actual", [math.nan, math.inf, 0.0, -1.0])
def test_a_measurement_that_is_no_time_is_ignored(actual):
    slowdown = Slowdown(kappa=1.0)
    slowdown.update(0.01, actual)
    assert slowdown.kappa == 1.0
