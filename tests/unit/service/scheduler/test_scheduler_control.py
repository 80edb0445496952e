"""The loop around the law: load moves the budget at once and back, floors hold, operators and watchdogs are obeyed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from service.control.fixed import Fixed
from service.control.policy import DrainFeasible
from service.control.set_points import Mode, SetPoints
from service.control.types import Decision, ReplicaView
from service.errors import DeadlineExceeded, Overloaded
from service.types import Completion, Contract, DeadlinePolicy, LimitedBy, Quality
from tests.support.gated_numpy import GatedNumpy
from tests.support.manual import Bench, Task, profile_of, settle

DEADLINE_S = 0.3
FULL = Contract(quality=Quality(1.0, 1.0))


def bench(num_workers: int = 1) -> Bench:
    """One row alone takes 12 ms at full budget; a batch of 8 takes 82 ms at full and 28 ms at the floor."""
    return Bench(DrainFeasible(), [GatedNumpy(deadline_s=DEADLINE_S)], num_workers=num_workers, max_queue=1000)


def row() -> dict[str, np.ndarray]:
    return {"x": np.ones((1, 8))}


def duration(it: Bench, index: int = 0) -> float:
    """What the running batch takes by the profile that the law was given."""
    job = it.workers.jobs[index][0]
    return 0.002 + float(np.sum(0.001 + 0.009 * job.budgets))


async def lone(it: Bench, count: int) -> list[Completion]:
    """Requests one after the other."""
    answers = []
    for _ in range(count):
        task = it.submit(row())
        await settle()
        await it.finish(duration(it))
        answers.append(task.result())
    return answers


async def run_all(it: Bench) -> None:
    while it.workers.jobs:
        await it.finish(duration(it))


def test_a_step_of_load_moves_the_budget_within_one_batch_and_back_after_it() -> None:
    it = bench()

    async def scenario() -> None:
        before = await lone(it, 30)
        assert before[-1].budget == 1.0
        assert before[-1].limited_by is LimitedBy.NONE
        running = it.submit(row())
        await settle()
        burst = [it.submit(row()) for _ in range(40)]  # 5 batches: 410 ms at full budget, 140 ms at the floor
        await settle()
        await it.finish(duration(it))
        assert running.result().budget == 1.0
        assert 0.25 <= it.workers.jobs[0][0].budgets[0] < 1.0  # the very next batch
        await run_all(it)
        answers = [task.result() for task in burst]
        assert all(answer.deadline_met for answer in answers)
        assert {answer.limited_by for answer in answers[:8]} == {LimitedBy.LOAD}
        after = await lone(it, 12)
        assert after[-1].budget == 1.0

    it.run(scenario())


@pytest.mark.parametrize("policy", [DeadlinePolicy.DEGRADE, DeadlinePolicy.REJECT])
def test_full_quality_is_kept_under_overload_or_refused(policy: DeadlinePolicy) -> None:
    it = bench()
    wants_full = Contract(
        quality=Quality(1.0, 1.0) if policy is DeadlinePolicy.DEGRADE else Quality(), deadline_policy=policy
    )

    async def scenario() -> None:
        await lone(it, 20)
        full: list[Task] = []
        auto: list[Task] = []
        for _ in range(60):
            full.append(it.submit(row(), wants_full))
            auto.append(it.submit(row()))
        await settle()
        await run_all(it)
        await it.advance(1.0)
        answered = [task.result() for task in full if task.exception() is None]
        refused = [task.exception() for task in full if task.exception() is not None]
        assert answered
        assert refused
        assert {answer.budget for answer in answered} == {1.0}
        assert all(isinstance(error, Overloaded | DeadlineExceeded) for error in refused)
        assert min(task.result().budget for task in auto if task.exception() is None) < 1.0

    it.run(scenario())


def test_what_cannot_be_met_even_at_the_floor_is_refused_at_once_with_a_time_to_come_back() -> None:
    it = bench()

    async def scenario() -> None:
        tasks = [it.submit(row()) for _ in range(400)]
        await settle()
        refused = [task.exception() for task in tasks if task.done() and task.exception()]
        assert len(refused) > 200  # before a single batch has ended
        assert all(isinstance(error, Overloaded) and 0.0 < error.retry_after_s <= 30.0 for error in refused)
        await run_all(it)
        answered = [task.result() for task in tasks if task.exception() is None]
        assert len(answered) >= 60
        assert sum(answer.deadline_met for answer in answered) >= 0.99 * len(answered)
        assert it.sample("shed_total", reason="admission") >= len(refused) - 8

    it.run(scenario())


def test_two_models_share_the_cores_so_one_models_backlog_lowers_the_others_budget() -> None:
    models = [GatedNumpy("gated", deadline_s=DEADLINE_S), GatedNumpy("other", deadline_s=DEADLINE_S)]
    it = Bench(DrainFeasible(), models, max_queue=1000)

    async def scenario() -> None:
        for _ in range(20):
            await lone(it, 1)
        running = it.submit(row())
        await settle()
        one = it.submit(row(), Contract(timeout_s=0.25))
        crowd = [it.submit(row(), model="other") for _ in range(40)]
        await settle()
        await run_all(it)
        assert running.result().budget == 1.0
        assert one.result().budget < 1.0
        assert one.result().limited_by is LimitedBy.LOAD
        assert all(task.exception() is None for task in crowd)

    it.run(scenario())


def test_in_shadow_mode_the_law_decides_and_full_quality_is_served() -> None:
    it = bench()

    async def scenario() -> None:
        it.scheduler.apply_setpoint(SetPoints(mode=Mode.SHADOW))
        await lone(it, 20)
        first = it.submit(row())
        await settle()
        burst = [it.submit(row()) for _ in range(40)]
        await settle()
        await it.finish(duration(it))
        assert it.sample("controller_budget_ratio") < 1.0
        assert it.sample("controller_mode", mode="shadow") == 1.0
        assert it.sample("shadow_verdicts_total", verdict="lower") >= 1
        agreed = it.sample("shadow_verdicts_total", verdict="agree")
        assert 10 <= agreed <= 21  # alone, the law would have served nearly all at full budget too
        await run_all(it)
        answered = [task.result() for task in [first, *burst] if task.exception() is None]
        assert {answer.budget for answer in answered} == {1.0}
        assert all(isinstance(task.exception(), DeadlineExceeded) for task in burst if task.exception())

    it.run(scenario())


def test_freeze_holds_the_budget_of_the_moment() -> None:
    it = bench()

    async def scenario() -> None:
        await lone(it, 20)
        it.submit(row())
        await settle()
        burst = [it.submit(row()) for _ in range(40)]
        await settle()
        await it.finish(duration(it))
        held = float(it.workers.jobs[0][0].budgets[0])
        it.scheduler.apply_setpoint(SetPoints(mode=Mode.FREEZE))
        await run_all(it)
        assert burst[0].result().budget == held
        calm = await lone(it, 5)
        assert {answer.budget for answer in calm} == {held}
        assert calm[0].limited_by is LimitedBy.OPERATOR
        it.scheduler.apply_setpoint(SetPoints())
        assert (await lone(it, 12))[-1].budget == 1.0

    it.run(scenario())


class Broken(Fixed):
    """A law with a defect: what `spoil` does to each decision."""

    def __init__(self, spoil: Callable[[Decision | None], Decision | None]) -> None:
        super().__init__()
        self._spoil = spoil

    def decide(self, view: ReplicaView) -> Decision | None:
        return self._spoil(super().decide(view))


def raising(decision: Decision | None) -> Decision | None:
    raise ZeroDivisionError("a defect of the law")


@pytest.mark.parametrize(
    "spoil", [raising, lambda decision: None, lambda decision: replace(decision, budget=math.nan)], ids=str
)
def test_a_defect_of_the_law_costs_quality_not_answers(
    spoil: Callable[[Decision | None], Decision | None],
) -> None:
    it = Bench(Broken(spoil), [GatedNumpy()])

    async def scenario() -> None:
        tasks = [it.submit(row()), it.submit(row(), FULL), it.submit({"x": np.ones((1, 5))})]
        await it.finish_all(0.01)
        assert [task.result().budget for task in tasks] == [0.25, 1.0, 0.25]
        assert it.sample("controller_watchdog_total") == 2

    it.run(scenario())


def test_a_profile_that_lost_touch_puts_the_model_at_the_floor_until_it_holds_again() -> None:
    it = Bench(DrainFeasible(), [GatedNumpy(deadline_s=60.0)])

    async def scenario() -> None:
        async def answer(seconds: float) -> Completion:
            task = it.submit(row())
            await settle()
            await it.finish(seconds)
            return task.result()

        for _ in range(20):
            assert (await answer(1.0)).budget == 1.0
        assert (await answer(0.012)).budget == 0.25
        assert it.sample("controller_watchdog_total") == 1
        budgets = [(await answer(0.012)).budget for _ in range(6)]
        assert budgets == sorted(budgets)
        assert budgets[0] > 0.25
        assert budgets[-1] == 1.0
        assert it.sample("controller_watchdog_total") == 1

    it.run(scenario())


def test_a_model_whose_profile_cannot_be_trusted_keeps_its_full_budget() -> None:
    it = bench()
    model = GatedNumpy(deadline_s=DEADLINE_S)

    async def scenario() -> None:
        it.scheduler.add_model(model, profile_of(model), adaptive=False)
        tasks = [it.submit(row()) for _ in range(24)]
        await settle()
        await run_all(it)
        answered = [task.result() for task in tasks if task.exception() is None]
        assert {answer.budget for answer in answered} == {1.0}

    it.run(scenario())
