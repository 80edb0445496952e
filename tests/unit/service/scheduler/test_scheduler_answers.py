"""What the scheduler answers, driven by hand: batches, budgets, order, and every way a request can end."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from service.control.fixed import Fixed
from service.control.set_points import Mode, SetPoints
from service.errors import DeadlineExceeded, InvalidRequest, ModelFailed, NotFound, Overloaded, Unavailable
from service.types import Contract, DeadlinePolicy, LimitedBy, Quality, Work
from tests.support.gated_numpy import GatedNumpy
from tests.support.manual import Bench, profile_of, settle


def bench(budget: float = 1.0, num_workers: int = 1, max_queue: int = 100, **model: float) -> Bench:
    return Bench(Fixed(budget=budget), [GatedNumpy(**model)], num_workers=num_workers, max_queue=max_queue)  # type: ignore[arg-type]


def row(seed: int, rows: int = 1, features: int = 8) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).integers(-9, 10, (rows, features)).astype(np.float64)}


def test_requests_of_different_rows_and_budgets_share_a_batch_and_get_their_own_answers() -> None:
    it = bench(budget=0.5)
    inputs = [row(1), row(2, rows=3), row(3), row(4)]
    contracts = [Contract(), Contract(quality=Quality(1.0, 1.0)), Contract(quality=Quality(0.0, 0.25)), Contract()]

    async def scenario() -> None:
        tasks = [it.submit(x, contract) for x, contract in zip(inputs, contracts, strict=True)]
        await settle()
        assert len(it.workers.jobs) == 1
        await it.finish(0.010)
        model = GatedNumpy()
        for task, x, budget in zip(tasks, inputs, (0.5, 1.0, 0.25, 0.5), strict=True):
            completion = task.result()
            alone = model.infer(x, np.full(len(x["x"]), budget))
            np.testing.assert_array_equal(completion.outputs["y"], alone.outputs["y"])
            assert completion.reports == alone.reports
            assert completion.budget == budget
            assert completion.batch_size == 6
            assert completion.queue_s == 0.0
            assert completion.deadline_met
            assert completion.quality_expected == pytest.approx(0.8 + 0.1 * budget)

    it.run(scenario())


def test_only_equal_shapes_share_a_batch() -> None:
    it = bench()

    async def scenario() -> None:
        tasks = [it.submit(row(i, features=features)) for i, features in enumerate((8, 5, 8, 5))]
        await settle()
        assert [array["x"].shape for array in it.workers.jobs[0][0].inputs] == [(1, 8), (1, 8)]
        await it.finish_all()
        assert [task.result().batch_size for task in tasks] == [2, 2, 2, 2]

    it.run(scenario())


def test_a_batch_never_exceeds_the_models_maximum() -> None:
    it = bench(max_batch=4)

    async def scenario() -> None:
        tasks = [it.submit(row(i, rows=rows)) for i, rows in enumerate((3, 2, 1, 4))]
        await settle()
        sizes = []
        while it.workers.jobs:
            sizes.append(sum(it.workers.jobs[0][0].rows))
            await it.finish()
        assert sum(sizes) == 10
        assert max(sizes) <= 4
        assert all(task.done() for task in tasks)

    it.run(scenario())


def test_the_earliest_deadline_goes_first() -> None:
    it = bench(max_batch=1)

    async def scenario() -> None:
        tasks = {t: it.submit(row(1), Contract(timeout_s=t)) for t in (0.5, 0.3, 0.9, 0.4)}
        await settle()
        order = []
        while it.workers.jobs:
            await it.finish()
            order += [t for t, task in tasks.items() if task.done() and t not in order]
        assert order == [0.3, 0.4, 0.5, 0.9]

    it.run(scenario())


def test_a_deadline_that_passes_in_the_queue_is_answered_at_that_moment() -> None:
    it = bench(max_batch=1)

    async def scenario() -> None:
        running = it.submit(row(1), Contract(timeout_s=1.0))
        waiting = it.submit(row(2), Contract(timeout_s=1.01))
        await settle()
        await it.advance(1.009)
        assert not waiting.done()
        await it.advance(0.001)
        with pytest.raises(DeadlineExceeded):
            waiting.result()
        await it.finish()
        assert not running.result().deadline_met
        assert it.sample("shed_total", reason="deadline") == 1
        assert it.sample("requests_total", priority="normal", outcome="late") == 1

    it.run(scenario())


def test_best_effort_is_answered_late_rather_than_never() -> None:
    it = bench(max_batch=1)

    async def scenario() -> None:
        it.submit(row(1))
        late = it.submit(row(2), Contract(timeout_s=0.01, deadline_policy=DeadlinePolicy.BEST_EFFORT))
        await settle()
        await it.advance(0.5)
        await it.finish_all(0.01)
        assert late.result().deadline_met is False

    it.run(scenario())


def test_a_cancelled_request_leaves_the_queue_at_once() -> None:
    it = bench(max_batch=1)

    async def scenario() -> None:
        first, second = it.submit(row(1)), it.submit(row(2))
        await settle()
        assert it.scheduler.num_pending == 2
        second.cancel()
        await settle()
        assert it.scheduler.num_pending == 1
        assert second.cancelled()
        await it.finish_all()
        assert first.done()
        assert it.sample("requests_total", priority="normal", outcome="cancelled") == 1

    it.run(scenario())


def test_a_request_cancelled_while_it_runs_is_counted_once_and_its_neighbour_is_answered() -> None:
    it = bench()

    async def scenario() -> None:
        gone, stays = it.submit(row(1)), it.submit(row(2))
        await settle()
        gone.cancel()
        await settle()
        await it.finish()
        assert stays.result().batch_size == 2
        assert it.sample("requests_total", priority="normal", outcome="cancelled") == 1
        assert it.sample("requests_total", priority="normal", outcome="ok") == 1
        assert it.scheduler.num_pending == 0

    it.run(scenario())


def test_a_client_that_leaves_in_the_turn_in_which_its_deadline_passes_is_counted_once() -> None:
    it = bench(max_batch=1)

    async def scenario() -> None:
        it.submit(row(1))
        gone = it.submit(row(2), Contract(timeout_s=1.5))
        await settle()
        gone.cancel()
        await it.finish(2.0)  # the law sheds it before its task has seen the cancellation
        assert gone.cancelled()
        assert it.sample("requests_total", priority="normal", outcome="cancelled") == 1
        assert it.sample("requests_total", priority="normal", outcome="shed") == 0
        assert it.scheduler.num_pending == 0

    it.run(scenario())


def test_a_poisonous_row_fails_alone_and_tells_no_secret() -> None:
    it = bench()
    poison = {"x": np.full((1, 8), -1e7)}
    refused = {"x": np.full((1, 8), np.nan)}

    async def scenario() -> None:
        tasks = [it.submit(row(1)), it.submit(poison), it.submit(refused), it.submit(row(2))]
        await settle()
        await it.finish()
        np.testing.assert_array_equal(
            tasks[0].result().outputs["y"], GatedNumpy().infer(row(1), np.ones(1)).outputs["y"]
        )
        assert tasks[3].result().deadline_met
        with pytest.raises(ModelFailed) as failed:
            tasks[1].result()
        assert "secret" not in failed.value.message
        with pytest.raises(InvalidRequest, match="NaN"):
            tasks[2].result()
        assert it.sample("requests_total", priority="normal", outcome="error") == 2

    it.run(scenario())


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    it = bench(max_batch=1, max_queue=2)

    async def scenario() -> None:
        tasks = []
        for i in range(4):
            tasks.append(it.submit(row(i)))
            await settle()
        with pytest.raises(Overloaded) as refused:
            tasks[3].result()
        assert refused.value.reason == "queue_full"
        assert refused.value.retry_after_s >= 1.0
        await it.finish_all()
        assert all(task.exception() is None for task in tasks[:3])
        assert it.sample("shed_total", reason="queue_full") == 1

    it.run(scenario())


def test_an_unknown_model_is_not_found() -> None:
    it = bench()

    async def scenario() -> None:
        with pytest.raises(NotFound):
            await it.submit(row(1), model="other")

    it.run(scenario())


def test_drain_refuses_new_requests_and_finishes_the_accepted_ones() -> None:
    it = bench(max_batch=1)

    async def scenario() -> None:
        accepted = [it.submit(row(i)) for i in range(3)]
        await settle()
        draining = asyncio.ensure_future(it.scheduler.drain())
        await settle()
        refused = it.submit(row(9))
        await settle()
        with pytest.raises(Unavailable):
            refused.result()
        assert not draining.done()
        await it.finish_all()
        assert draining.done()
        assert all(task.exception() is None for task in accepted)

    it.run(scenario())


def test_close_answers_what_waits() -> None:
    it = bench(max_batch=1)

    async def scenario() -> None:
        tasks = [it.submit(row(i)) for i in range(2)]
        await settle()
        it.scheduler.close()
        await settle()
        with pytest.raises(Unavailable):
            tasks[1].result()
        assert it.workers.closed

    it.run(scenario())


def test_a_removed_model_finishes_its_requests_and_is_gone() -> None:
    model = GatedNumpy()
    it = Bench(Fixed(), [model])

    async def scenario() -> None:
        accepted = it.submit(row(1))
        await settle()
        removing = asyncio.ensure_future(it.scheduler.remove_model(model))
        await settle()
        refused = it.submit(row(2))
        await settle()
        with pytest.raises(Unavailable):
            refused.result()
        assert not removing.done()
        await it.finish()
        assert accepted.result().deadline_met
        assert removing.done()
        with pytest.raises(NotFound):
            await it.submit(row(1))

    it.run(scenario())


def test_a_reload_runs_what_waits_on_the_new_model_and_lets_the_old_one_finish() -> None:
    old, new = GatedNumpy(max_batch=1), GatedNumpy(max_batch=1, units=32)
    it = Bench(Fixed(), [old])

    async def scenario() -> None:
        running, waiting = it.submit(row(1)), it.submit(row(2))
        await settle()
        it.scheduler.add_model(new, profile_of(new))
        leaving = asyncio.ensure_future(it.scheduler.remove_model(old))
        await settle()
        assert not leaving.done()
        assert it.scheduler.num_pending == 2
        await it.finish_all()
        assert leaving.done()
        assert running.result().macs_dense == 16 * 12 + 3
        assert waiting.result().macs_dense == 32 * 12 + 3
        assert it.scheduler.num_pending == 0

    it.run(scenario())


@pytest.mark.parametrize(
    ("set_points", "quality", "budget", "limited_by"),
    [
        (SetPoints(), Quality(), 1.0, LimitedBy.NONE),
        (SetPoints(), Quality(0.0, 0.5), 0.5, LimitedBy.REQUEST),
        (SetPoints(), Quality(0.01, 0.01), 0.25, LimitedBy.REQUEST),
        (SetPoints(mode=Mode.MANUAL, budget=0.5), Quality(), 0.5, LimitedBy.OPERATOR),
        (SetPoints(mode=Mode.MANUAL, budget=0.5), Quality(0.75, 1.0), 0.75, LimitedBy.OPERATOR),
        (SetPoints(mode=Mode.MANUAL, budget=0.5), Quality(0.0, 0.25), 0.25, LimitedBy.REQUEST),
        (SetPoints(mode=Mode.MANUAL, budget=0.5), Quality(1.0, 1.0), 1.0, LimitedBy.NONE),
        (SetPoints(max_budget=0.75), Quality(), 0.75, LimitedBy.OPERATOR),
        (SetPoints(max_budget=0.75), Quality(0.0, 0.5), 0.5, LimitedBy.REQUEST),
        (SetPoints(min_budget=0.5), Quality(0.0, 0.25), 0.5, LimitedBy.REQUEST),
        (SetPoints(mode=Mode.FREEZE), Quality(), 1.0, LimitedBy.NONE),
    ],
)
def test_budget_and_its_reason_follow_the_operator_and_the_request(
    set_points: SetPoints, quality: Quality, budget: float, limited_by: LimitedBy
) -> None:
    it = bench()

    async def scenario() -> None:
        it.scheduler.apply_setpoint(set_points)
        task = it.submit(row(1), Contract(quality=quality))
        await it.finish_all()
        assert (task.result().budget, task.result().limited_by) == (budget, limited_by)

    it.run(scenario())


def test_a_floor_above_the_operators_maximum_is_refused_not_broken() -> None:
    it = bench()

    async def scenario() -> None:
        it.scheduler.apply_setpoint(SetPoints(max_budget=0.5))
        task = it.submit(row(1), Contract(quality=Quality(1.0, 1.0)))
        await settle()
        with pytest.raises(Overloaded) as refused:
            task.result()
        assert refused.value.reason == "floor"

    it.run(scenario())


def test_requests_of_two_models_run_by_deadline_and_only_their_own_model() -> None:
    policy = Fixed()
    it = Bench(policy, [GatedNumpy("gated"), GatedNumpy("other", units=32)])

    async def scenario() -> None:
        first = it.submit(row(1), Contract(timeout_s=0.9))
        await settle()
        later = it.submit(row(1), Contract(timeout_s=0.8))
        urgent = it.submit(row(1), Contract(timeout_s=0.7), model="other")
        await settle()
        await it.finish()
        assert first.done()
        await it.finish()
        assert urgent.done()
        assert not later.done()
        await it.finish()
        assert urgent.result().macs_dense == 32 * 12 + 3
        assert later.result().macs_dense == 16 * 12 + 3

    it.run(scenario())


def test_a_stuck_worker_makes_the_replica_unhealthy() -> None:
    it = bench()

    async def scenario() -> None:
        task = it.submit(row(1))
        await settle()
        assert it.scheduler.healthy()
        await it.advance(61.0)
        assert not it.scheduler.healthy()
        await it.finish()
        assert it.scheduler.healthy()
        assert task.done()

    it.run(scenario())


def test_answers_do_not_arrive_on_a_work_item_of_another_version() -> None:
    it = bench()

    async def scenario() -> None:
        work = Work("gated", "2", row(1), 1, Contract(), it.clock.now_s)
        with pytest.raises(NotFound):
            await it.scheduler.submit(work)

    it.run(scenario())
