"""The coordinator's body without Ray: versions, long-poll, restarts, bad changes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.control.set_points import Mode, SetPoints
from service.errors import InvalidRequest
from service.host.coordinator import Coordinator, follow


async def test_a_waiting_replica_is_woken_by_a_change() -> None:
    coordinator = Coordinator()
    waiting = asyncio.create_task(coordinator.wait(SetPoints(), timeout_s=60))
    await asyncio.sleep(0)
    published = await coordinator.publish({"mode": "manual", "budget": 0.4})
    assert await waiting == published
    assert (published.version, published.mode, published.budget) == (1, Mode.MANUAL, 0.4)


async def test_an_old_version_is_answered_at_once_and_an_unchanged_one_at_the_timeout() -> None:
    coordinator = Coordinator()
    latest = await coordinator.publish({"draining": True})
    assert await coordinator.wait(SetPoints(), timeout_s=60) == latest
    assert await coordinator.wait(latest, timeout_s=0) == latest


async def test_a_restarted_coordinator_learns_from_the_replicas() -> None:
    before = Coordinator()
    await before.publish({"mode": "freeze"})
    known = await before.publish({"max_budget": 0.5})
    restarted = Coordinator()
    other = asyncio.create_task(restarted.wait(SetPoints(), timeout_s=60))
    await restarted.wait(known, timeout_s=0)
    assert await other == known
    assert (await restarted.publish({"mode": "auto"})).version == known.version + 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"mode": "turbo"}, "mode"),
        ({"budget": 2}, "budget"),
        ({"budget": 0}, "budget"),
        ({"budget": True}, "budget"),
        ({"min_budget": 0.9, "max_budget": 0.5}, "min_budget"),
        ({"draining": 1}, "draining"),
        ({"version": 9}, "version"),
        ({"speed": 9}, "speed"),
    ],
)
async def test_a_bad_change_is_refused_and_changes_nothing(change: Mapping[str, Any], field: str) -> None:
    coordinator = Coordinator()
    with pytest.raises(InvalidRequest, match=field):
        await coordinator.publish(change)
    assert await coordinator.current() == SetPoints()


@given(st.lists(st.sampled_from([{"mode": "freeze"}, {"mode": "auto"}, {"budget": 0.5}, {"max_budget": 0.8}])))
def test_versions_only_grow(changes: list[dict[str, Any]]) -> None:
    async def versions() -> list[int]:
        coordinator = Coordinator()
        return [(await coordinator.publish(change)).version for change in changes]

    assert asyncio.run(versions()) == list(range(1, len(changes) + 1))


class FlakySource(Coordinator):
    """A coordinator that cannot be reached at every other call."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    async def wait(self, known: SetPoints, timeout_s: float = 60.0) -> SetPoints:
        self._calls += 1
        if self._calls % 2:
            raise ConnectionError
        return await super().wait(known, timeout_s)


async def test_following_survives_an_absent_coordinator() -> None:
    source = FlakySource()
    applied: asyncio.Queue[SetPoints] = asyncio.Queue()
    following = asyncio.create_task(follow(source, applied.put_nowait, retry_s=0.0))
    for budget in (0.2, 0.7):
        published = await source.publish({"mode": "manual", "budget": budget})
        async with asyncio.timeout(30):
            assert await applied.get() == published
    following.cancel()
    assert applied.empty()
