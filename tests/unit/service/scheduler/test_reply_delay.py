"""The time answers wait for the event loop is taken off deadlines, within bounds, and forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.scheduling.reply import MAX_SHARE, MEMORY_S, ReplyDelay
from tests.support.manual import ManualClock


def test_nothing_seen_is_no_delay() -> None:
    assert ReplyDelay(ManualClock()).of(0.1) == 0.0


def test_the_largest_of_late_counts_and_fades() -> None:
    clock = ManualClock()
    delay = ReplyDelay(clock)
    delay.observe(0.02)
    delay.observe(0.001)
    assert delay.of(1.0) == pytest.approx(0.02)
    clock.now_s += MEMORY_S
    assert delay.of(1.0) == pytest.approx(0.02 / 2.718, rel=1e-3)
    clock.now_s += 100 * MEMORY_S
    assert delay.of(1.0) < 1e-9


@given(st.lists(st.floats(0, 1e6), max_size=5), st.floats(1e-3, 100))
def test_no_hiccup_takes_a_deadline_away(seen: list[float], timeout_s: float) -> None:
    delay = ReplyDelay(ManualClock())
    for seconds in seen:
        delay.observe(seconds)
    assert 0.0 <= delay.of(timeout_s) <= MAX_SHARE * timeout_s
