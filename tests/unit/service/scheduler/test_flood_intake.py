"""How much of a flood is read: about what is answered, never nothing, and all of it again when the flood is over."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.control.policy import DrainFeasible
from service.scheduling.intake import HOLD_S, MANY, PROBE_RATIO, TRICKLE, TRICKLE_S, Intake
from service.types import Haste
from tests.support.gated_numpy import GatedNumpy
from tests.support.manual import Bench, ManualClock, settle

TIMEOUT_S = 0.1


def flooded_intake() -> tuple[Intake, ManualClock]:
    clock = ManualClock()
    intake = Intake(clock)
    flood(intake)
    return intake, clock


def flood(intake: Intake) -> None:
    for _ in range(MANY):
        intake.refused(TIMEOUT_S)


def taken(intake: Intake, offered: int, idle: bool = False) -> int:
    return sum([intake.takes(TIMEOUT_S, idle) for _ in range(offered)])


def test_without_a_refusal_everything_is_read() -> None:
    assert taken(Intake(ManualClock()), 1000) == 1000


def test_a_few_refusals_are_no_flood() -> None:
    clock = ManualClock()
    intake = Intake(clock)
    for _ in range(10 * MANY):  # now and then
        intake.refused(TIMEOUT_S)
        clock.now_s += 2 * HOLD_S / MANY
        assert not intake.flooded
    assert taken(intake, 1000) == 1000


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 32)), max_size=50))
def test_in_a_flood_hardly_more_is_read_than_is_answered(steps: list[tuple[int, int]]) -> None:
    intake, _ = flooded_intake()
    read = answered = 0
    for offered, batch in steps:
        read += taken(intake, offered)
        intake.answered(batch)
        answered += batch
        assert read <= (1 + PROBE_RATIO) * answered


def test_room_that_nobody_used_is_not_saved_for_a_burst() -> None:
    intake, _ = flooded_intake()
    for _ in range(100):
        intake.answered(10)
    assert taken(intake, 1000) == int(10 + 10 * (1 + PROBE_RATIO))


def test_who_has_more_time_than_all_that_were_refused_is_read() -> None:
    intake, _ = flooded_intake()
    assert not intake.takes(TIMEOUT_S, idle=False)
    assert intake.takes(2 * TIMEOUT_S, idle=False)
    intake.refused(2 * TIMEOUT_S)
    assert not intake.takes(2 * TIMEOUT_S, idle=False)


def test_a_model_with_nothing_to_do_is_given_work_now_and_then() -> None:
    intake, clock = flooded_intake()
    assert taken(intake, 1000, idle=True) == TRICKLE
    clock.now_s += 1.1 * TRICKLE_S
    assert taken(intake, 1000, idle=True) == TRICKLE


def test_the_flood_is_over_when_nothing_was_refused_for_a_while() -> None:
    intake, clock = flooded_intake()
    intake.answered(32)
    clock.now_s += 0.9 * HOLD_S
    assert intake.flooded
    intake.refused(TIMEOUT_S)
    clock.now_s += 0.9 * HOLD_S
    assert intake.flooded
    clock.now_s += 0.2 * HOLD_S
    assert not intake.flooded
    assert taken(intake, 1000) == 1000
    clock.now_s += 2 * HOLD_S
    flood(intake)  # another one: what the last one left is forgotten
    assert taken(intake, 1000) == 0


def test_who_cannot_be_answered_in_time_behind_the_running_batch_takes_nobodys_place() -> None:
    it = Bench(DrainFeasible(), [GatedNumpy(deadline_s=1.0)])

    async def scenario() -> None:
        for _ in range(8):  # one at once, alone; the others as soon as the worker is free
            it.submit({"x": np.ones((1, 8))})
            await settle()
        await it.finish(0.002)  # now a batch of seven: 20 ms at least
        for _ in range(MANY):
            it.scheduler.count_shed("gated", "1", "surplus")
        (hosted,) = it.scheduler._models.values()
        hosted.intake.answered(10)
        soon, later = Haste(0.015, 0.0), Haste(0.2, 0.0)
        assert not any(it.scheduler.takes("gated", "1", soon) for _ in range(5))
        assert not it.scheduler.takes("gated", "1", Haste(0.2, 0.19))
        assert [it.scheduler.takes("gated", "1", later) for _ in range(13)].count(True) == 11
        await it.finish(0.02)
        hosted.intake.answered(10)
        assert it.scheduler.takes("gated", "1", soon)

    it.run(scenario())
