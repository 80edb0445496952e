"""Deadline, priority and quality from parameters, headers and transport: smallest deadline, largest floor."""

from __future__ import annotations

from typing import Any

import pytest

from service.errors import InvalidRequest
from service.inference.contract import parse_contract
from service.types import Contract, DeadlinePolicy, Quality


def test_nothing_asked() -> None:
    assert parse_contract({}, {}) == Contract()
    assert parse_contract({"custom": 1}, {"host": "x"}, tenant="t") == Contract(tenant="t")


@pytest.mark.parametrize(
    ("parameter", "header", "transport", "expected"),
    [
        (None, None, None, None),
        (0, None, None, None),
        (250_000, None, None, 0.25),
        (None, "0.5", None, 0.5),
        (None, "-1", None, None),
        (None, None, 0.75, 0.75),
        (250_000, "0.5", 0.75, 0.25),
        (2_000_000, "0.5", 0.75, 0.5),
        (2_000_000, "5", 0.75, 0.75),
        (0, "0", 3.0, 3.0),
    ],
)
def test_smallest_deadline_wins(parameter: Any, header: Any, transport: Any, expected: Any) -> None:
    parameters = {} if parameter is None else {"timeout": parameter}
    headers = {} if header is None else {"x-request-timeout-seconds": header}
    assert parse_contract(parameters, headers, transport).timeout_s == expected


@pytest.mark.parametrize(
    ("parameters", "headers", "expected"),
    [
        ({}, {}, 0),
        ({"priority": 1}, {}, 1),
        ({"priority": 0}, {"priority": "u=7"}, 0),
        ({}, {"priority": "u=0"}, 1),
        ({}, {"priority": "u=2, i"}, 1),
        ({}, {"priority": "i, u=3"}, 0),
        ({}, {"priority": "u=5"}, 3),
        ({}, {"priority": "u=9"}, 0),
    ],
)
def test_priority(parameters: Any, headers: Any, expected: int) -> None:
    assert parse_contract(parameters, headers).priority == expected


@pytest.mark.parametrize(
    ("parameters", "headers", "expected"),
    [
        ({"quality": "auto"}, {}, Quality(0.0, 1.0)),
        ({"quality": "full"}, {}, Quality(1.0, 1.0)),
        ({"quality": 1}, {}, Quality(1.0, 1.0)),
        ({"quality": 0.3}, {}, Quality(0.3, 0.3)),
        ({"quality": "0.3"}, {}, Quality(0.3, 0.3)),
        ({"quality_min": 0.2, "quality_max": 0.8}, {}, Quality(0.2, 0.8)),
        ({"quality_min": 0.2}, {"x-quality-min": "0.4"}, Quality(0.4, 1.0)),
        ({}, {"x-quality-min": "0.1"}, Quality(0.1, 1.0)),
    ],
)
def test_quality(parameters: Any, headers: Any, expected: Quality) -> None:
    contract = parse_contract(parameters, headers)
    assert contract.quality == expected
    assert contract.quality.pinned == (expected.minimum == expected.maximum)


def test_deadline_policy() -> None:
    for policy in DeadlinePolicy:
        assert parse_contract({"deadline_policy": policy.value}, {}).deadline_policy is policy


@pytest.mark.parametrize(
    ("parameters", "headers", "message"),
    [
        ({"timeout": -1}, {}, "microseconds as an integer"),
        ({"timeout": 1.5}, {}, "microseconds as an integer"),
        ({"timeout": False}, {}, "microseconds as an integer"),
        ({}, {"x-request-timeout-seconds": "soon"}, "expected seconds, got 'soon'"),
        ({}, {"x-request-timeout-seconds": "nan"}, "expected seconds"),
        ({"priority": -1}, {}, "0 = default, 1 = highest"),
        ({"priority": True}, {}, "0 = default, 1 = highest"),
        ({"quality": "best"}, {}, "auto, full or a budget in (0, 1]"),
        ({"quality": 0}, {}, "auto, full or a budget in (0, 1]"),
        ({"quality": True}, {}, "auto, full or a budget in (0, 1]"),
        ({"quality": "x" * 90}, {}, "..."),
        ({"quality_min": 1.5}, {}, "from 0 to 1"),
        ({"quality_max": 0}, {}, "(0, 1], got 0"),
        ({"quality_min": 0.6, "quality_max": 0.5}, {}, "above the ceiling"),
        ({"quality": 0.2}, {"x-quality-min": "0.4"}, "outside [quality_min, quality_max] = [0.4, 1]"),
        ({"quality_target": 1}, {}, "quality, quality_min, quality_max"),
        ({"deadline_policy": 1}, {}, "degrade, reject, best_effort"),
    ],
)
def test_what_cannot_be(parameters: Any, headers: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_contract(parameters, headers)
    assert message in caught.value.message
