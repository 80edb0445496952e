"""Arrival times count the wait for a busy event loop, and nothing else."""

from __future__ import annotations

import pytest

from service.api.arrivals import Arrivals
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
