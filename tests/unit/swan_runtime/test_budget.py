import json

import pytest

from swan_runtime.budget import BudgetPoint, CalibrationTable, check_budget
from swan_runtime.errors import CalibrationError, InvalidInputError


def point(budget: float, quality: float) -> BudgetPoint:
    return BudgetPoint(
        budget,
        {"fc1": 1.0 - budget, "fc2": 0.5 - budget},
        budget,
        budget,
        budget * 1.2,
        budget * 1e6,
        budget * 1.2e6,
        quality,
    )


def table() -> CalibrationTable:
    return CalibrationTable(
        "toy", "f" * 64, "accuracy", 1000, 1e6, (point(0.1, 0.8), point(0.5, 0.88), point(1.0, 0.9)), {"fc1": 60}
    )


def test_interpolates_between_served_budgets_and_clamps_at_the_ends() -> None:
    middle = table().at(0.3)
    assert middle.quality == pytest.approx(0.84)
    assert middle.thresholds["fc1"] == pytest.approx(0.7)
    assert table().at(0.01) == table().points[0]
    assert table().at(1.0) == table().points[-1]


def test_round_trips_through_json() -> None:
    assert CalibrationTable.from_json(table().to_json()) == table()


@pytest.mark.parametrize("budget", [0.0, -0.1, 1.01, float("nan"), float("inf")])
def test_refuses_budgets_outside_the_unit_interval(budget: float) -> None:
    with pytest.raises(InvalidInputError, match=r"budget: expected a number in \(0, 1\]"):
        check_budget(budget)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"format_version": 99}, "format_version"),
        ({"surprise": 1}, "surprise"),
        ({"points": []}, "points"),
        ({"points": [{"budget": 1.0}]}, "points"),
        ({"n": "many"}, "numbers"),
    ],
)
def test_refuses_malformed_tables_by_name(change: dict[str, object], names: str) -> None:
    raw = json.loads(table().to_json()) | change
    with pytest.raises(CalibrationError, match=names):
        CalibrationTable.from_json(json.dumps(raw))


def test_refuses_quality_that_falls_with_the_budget() -> None:
    with pytest.raises(CalibrationError, match="quality"):
        CalibrationTable("toy", "f", "accuracy", 10, 1e6, (point(0.1, 0.9), point(1.0, 0.8)))


def test_refuses_the_table_of_another_model() -> None:
    with pytest.raises(CalibrationError, match="fingerprint"):
        table().check_model("0" * 64)
