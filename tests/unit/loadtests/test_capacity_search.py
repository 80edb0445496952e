"""The search for the highest rate that holds, on servers whose truth is known."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.capacity import RAISES, Probe, bisect
from loadtests.records import NUMBERS, Run, Summary, summarise


def summary(on_time: float) -> Summary:
    one = np.zeros(1)
    numbers = {name: np.full(1, np.nan) for name in NUMBERS}
    answered = summarise(Run(one, one, one + 0.01, one.astype(np.int8), one, one, numbers, one + 1.0))
    return replace(answered, on_time_ratio=on_time)


def found(truth: float, low: float, high: float, rounds: int, fails_once: frozenset[int] = frozenset()) -> Any:
    """Search a server that holds every rate up to `truth`; `fails_once`: numbers of probes that a pause spoils."""
    count = 0

    async def probe(rate: float) -> Probe:
        nonlocal count
        spoilt, count = count in fails_once, count + 1
        return Probe(rate, summary(1.0 if rate <= truth and not spoilt else 0.5))

    return asyncio.run(bisect(low, high, probe, rounds))


@given(truth=st.floats(10.0, 90.0), rounds=st.integers(1, 8))
def test_the_highest_rate_that_holds_is_found_to_the_last_halving(truth: float, rounds: int) -> None:
    rate, probes = found(truth, 0.0, 100.0, rounds)
    assert rate <= truth < rate + 100.0 / 2**rounds
    assert all(probe.rate <= truth for probe in probes if probe.held)


def test_one_pause_changes_nothing_and_two_in_a_row_do() -> None:
    calm, _ = found(60.0, 0.0, 100.0, 4)
    assert found(60.0, 0.0, 100.0, 4, frozenset({2}))[0] == calm
    assert found(60.0, 0.0, 100.0, 4, frozenset({2, 3}))[0] < calm


def test_a_first_guess_that_holds_is_raised() -> None:
    rate, probes = found(200.0, 0.0, 100.0, 3)
    assert 150.0 <= rate <= 200.0 and probes[0].held
    everything, probes = found(1e9, 0.0, 100.0, 3)
    assert everything == pytest.approx(100.0 * 1.5 ** (RAISES - 1)) and len(probes) == RAISES
