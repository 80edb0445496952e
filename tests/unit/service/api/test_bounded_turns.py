"""What one turn of the event loop begins is bounded, the newest goes first, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.turns import REASON, Turns
from service.errors import Overloaded
from tests.support.manual import ManualClock, ManualLoop

PATIENCE_S = 0.2


async def one_turn() -> None:
    await asyncio.sleep(0)


@given(st.integers(1, 8), st.integers(0, 40))
def test_all_get_their_turn_and_no_turn_begins_too_many(a_turn: int, requests: int) -> None:
    loop = ManualLoop(ManualClock())

    async def play() -> None:
        turns = Turns(PATIENCE_S, a_turn, lambda: 0.0)
        begun: list[int] = []

        async def request(number: int) -> None:
            await turns.enter()
            begun.append(number)

        tasks = [asyncio.create_task(request(number)) for number in range(requests)]
        seen = 0
        while len(begun) < requests:
            await one_turn()
            assert len(begun) - seen <= 2 * a_turn  # those of one turn may be resumed beside those of the next
            seen = len(begun)
        await asyncio.gather(*tasks)
        first, later = begun[:a_turn], begun[a_turn:]
        assert first == list(range(min(a_turn, requests)))
        assert later == sorted(later, reverse=True)

    loop.run_until_complete(play())
    loop.close()


def test_who_waited_too_long_is_refused() -> None:
    clock = ManualClock()
    loop = ManualLoop(clock)

    async def play() -> None:
        turns = Turns(PATIENCE_S, 1, clock)
        tasks = [asyncio.create_task(turns.enter()) for _ in range(3)]
        await one_turn()
        clock.now_s += 2 * PATIENCE_S
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[0] is False  # it did not wait
        assert results[2] is True  # the newest had its turn before the oldest was given up
        refused = results[1]
        assert isinstance(refused, Overloaded)
        assert refused.reason == REASON
        assert refused.retry_after_s > 0

    loop.run_until_complete(play())
    loop.close()


def test_a_client_that_left_takes_no_turn() -> None:
    loop = ManualLoop(ManualClock())

    async def play() -> None:
        turns = Turns(PATIENCE_S, 1, lambda: 0.0)
        tasks = [asyncio.create_task(turns.enter()) for _ in range(3)]
        await one_turn()
        tasks[2].cancel()
        await tasks[1]
        with pytest.raises(asyncio.CancelledError):
            await tasks[2]

    loop.run_until_complete(play())
    loop.close()
