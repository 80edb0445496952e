"""Arrival times count the wait for a busy event loop, and nothing else."""

from __future__ import annotations

import time

import pytest

from service.api.arrivals import MAX_AGE_S, Arrivals, age_of
from tests.support.manual import ManualClock, ManualLoop, settle

PERIOD_S = Arrivals.PERIOD_S


def test_the_wait_for_the_loop_counts() -> None:
    clock = ManualClock()
    loop = ManualLoop(clock)

    async def play() -> None:
        arrivals = Arrivals(clock)
        assert arrivals.now() == clock.now_s  # idle: no wait
        clock.now_s += PERIOD_S / 2
        assert arrivals.now() == clock.now_s
        clock.now_s += PERIOD_S / 2 + 0.4  # one long turn of the loop, the timer is due since 0.4 s
        assert clock.now_s - arrivals.now() == pytest.approx(0.4)
        await settle()  # the timer fires, late; what is read now may have been accepted in that turn
        assert clock.now_s - arrivals.now() == pytest.approx(0.4)
        clock.now_s += PERIOD_S
        await settle()  # a turn in time: nothing waits any more
        assert arrivals.now() == pytest.approx(clock.now_s)

    loop.run_until_complete(play())
    loop.close()


def test_the_timer_rests_without_requests() -> None:
    clock = ManualClock()
    loop = ManualLoop(clock)

    async def play() -> None:
        arrivals = Arrivals(clock)
        arrivals.now()
        clock.now_s += PERIOD_S
        await settle()
        clock.now_s += 100.0  # the loop sleeps for long, which is not being late
        await settle()
        assert arrivals.now() == clock.now_s

    loop.run_until_complete(play())
    loop.close()


@pytest.mark.parametrize(
    ("stamp", "age_s"),
    [
        ("t=1700000000500000", 0.5),
        (" t=1700000000500000", 0.5),
        ("t=1700000009000000", 0.0),  # a clock a little ahead
        ("1700000000500000", None),
        ("t=17000000", None),
        ("t=" + "9" * 40, None),
        ("", None),
        (f"t={1_700_000_000_000_000 - round(MAX_AGE_S * 2e6)}", None),
    ],
)
def test_a_proxys_stamp_is_believed_if_it_is_one(stamp: str, age_s: float | None) -> None:
    assert age_of(stamp, lambda: 1_700_000_001.0) == (None if age_s is None else pytest.approx(age_s))


def test_the_proxys_stamp_counts_what_waited_in_sockets() -> None:
    clock = ManualClock()
    stamp = f"t={round((time.time() - 3.0) * 1e6)}"
    assert 3.0 <= clock.now_s - Arrivals(clock).of({"x-request-start": stamp}) < 30.0
