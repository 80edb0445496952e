"""Whatever happens in whatever order: every request gets one answer, it is the right one, and no floor is broken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from service.control.fixed import Fixed
from service.control.policy import DrainFeasible
from service.control.set_points import Mode, SetPoints
from service.control.types import Policy
from service.errors import DeadlineExceeded, ModelFailed, Overloaded, ServiceError
from service.telemetry.metrics import Outcome
from service.types import Completion, Contract, DeadlinePolicy, Quality
from tests.support.gated_numpy import GatedNumpy
from tests.support.manual import Bench, Task, settle

LOWEST = 0.25
NO_SHRINK = (Phase.explicit, Phase.generate)


@dataclass
class Sent:
    task: Task
    inputs: dict[str, np.ndarray]
    contract: Contract
    poisonous: bool = False
    cancelled: bool = False


@dataclass
class Story:
    """Replays steps drawn by hypothesis on a bench and remembers what was sent."""

    bench: Bench
    sent: list[Sent] = field(default_factory=list)

    async def replay(self, steps: list[tuple[object, ...]]) -> None:
        for name, *arguments in steps:
            await getattr(self, f"_{name}")(*arguments)
        self.bench.scheduler.apply_setpoint(SetPoints())
        await self.bench.finish_all(0.001)
        await self.bench.advance(100.0)
        await self.bench.finish_all(0.001)

    async def _submit(self, rows: int, features: int, contract: Contract, poisonous: bool) -> None:
        x = np.random.default_rng(len(self.sent)).integers(-9, 10, (rows, features)).astype(np.float64)
        if poisonous:
            x[0, 0] = -1e7
        inputs = {"x": x}
        self.sent.append(Sent(self.bench.submit(inputs, contract), inputs, contract, poisonous))

    async def _settle(self) -> None:
        await settle()

    async def _advance(self, seconds: float) -> None:
        await self.bench.advance(seconds)

    async def _finish(self, seconds: float) -> None:
        if self.bench.workers.jobs:
            await self.bench.finish(seconds)

    async def _cancel(self, index: int) -> None:
        if self.sent:
            await settle()  # a task cancelled before its first step was never a request
            one = self.sent[index % len(self.sent)]
            one.cancelled = one.task.cancel() or one.cancelled

    async def _order(self, set_points: SetPoints) -> None:
        self.bench.scheduler.apply_setpoint(set_points)


def qualities() -> st.SearchStrategy[Quality]:
    ends = st.tuples(st.floats(0.0, 1.0), st.floats(0.01, 1.0)).map(sorted)
    return st.one_of(st.just(Quality()), st.just(Quality(1.0, 1.0)), ends.map(lambda pair: Quality(*pair)))


def contracts() -> st.SearchStrategy[Contract]:
    return st.builds(
        Contract,
        timeout_s=st.one_of(st.none(), st.floats(0.0, 0.2)),
        priority=st.integers(0, 4),
        quality=qualities(),
        deadline_policy=st.sampled_from(DeadlinePolicy),
    )


def steps(operator: bool) -> st.SearchStrategy[list[tuple[object, ...]]]:
    order = st.builds(SetPoints, mode=st.sampled_from(Mode), budget=st.floats(0.01, 1.0), max_budget=st.just(0.75))
    kinds = [
        st.tuples(st.just("submit"), st.integers(1, 4), st.sampled_from([5, 8]), contracts(), st.booleans()),
        st.tuples(st.just("submit"), st.integers(1, 4), st.just(8), contracts(), st.just(False)),
        st.tuples(st.just("settle")),
        st.tuples(st.just("advance"), st.floats(0.0, 0.1)),
        st.tuples(st.just("finish"), st.floats(0.0, 0.05)),
        st.tuples(st.just("cancel"), st.integers(0, 100)),
    ]
    return st.lists(st.one_of(*kinds, *([st.tuples(st.just("order"), order)] if operator else [])), max_size=40)


def serial(one: Sent, completion: Completion) -> None:
    """The answer equals what the model says to this request alone."""
    alone = GatedNumpy().infer(one.inputs, np.full(len(one.inputs["x"]), completion.budget))
    np.testing.assert_array_equal(completion.outputs["y"], alone.outputs["y"])
    assert completion.reports == alone.reports


def check(one: Sent) -> Outcome:
    """Every request ends in exactly one way that its contract allows."""
    assert one.task.done()
    if one.task.cancelled():
        assert one.cancelled
        return Outcome.CANCELLED
    error = one.task.exception()
    if error is None:
        completion = one.task.result()
        assert not one.poisonous
        serial(one, completion)
        quality = one.contract.quality
        assert completion.budget >= min(max(quality.minimum, LOWEST), 1.0)
        assert completion.budget <= max(quality.maximum, LOWEST)
        return Outcome.OK if completion.deadline_met else Outcome.LATE
    assert isinstance(error, ServiceError)
    if isinstance(error, ModelFailed):
        assert one.poisonous
        return Outcome.ERROR
    assert isinstance(error, Overloaded | DeadlineExceeded)
    if isinstance(error, Overloaded):
        assert error.retry_after_s > 0.0
    return Outcome.SHED


def check_story(story: Story) -> None:
    outcomes = [check(one) for one in story.sent]
    bench = story.bench
    assert bench.scheduler.num_pending == 0
    for outcome in Outcome:
        counted = sum(
            bench.sample("requests_total", priority=priority, outcome=outcome.value)
            for priority in ("high", "normal", "low")
        )
        assert counted == outcomes.count(outcome)
    answered = [one.task.result() for one in story.sent if not one.task.cancelled() and not one.task.exception()]
    assert bench.sample("compute_macs_total") == sum(one.macs for one in answered)
    assert bench.sample("dense_equivalent_macs_total") == sum(one.macs_dense for one in answered)
    assert bench.sample("slo_attained_total") == outcomes.count(Outcome.OK)
    assert bench.sample("slo_requests_total") == len(outcomes) - outcomes.count(Outcome.CANCELLED)


@pytest.mark.parametrize("make_policy", [Fixed, lambda: Fixed(budget=0.3), DrainFeasible], ids=["full", "low", "law"])
@pytest.mark.parametrize("num_workers", [1, 2])
@settings(max_examples=20, deadline=None, phases=NO_SHRINK)
@given(drawn=steps(operator=False))
def test_no_request_is_lost_answered_twice_or_answered_wrong(
    make_policy: Callable[[], Policy], num_workers: int, drawn: list[tuple[object, ...]]
) -> None:
    story = Story(Bench(make_policy(), [GatedNumpy(deadline_s=0.05)], num_workers=num_workers, max_queue=12))
    story.bench.run(story.replay(drawn))
    check_story(story)


@settings(max_examples=20, deadline=None, phases=NO_SHRINK)
@given(drawn=steps(operator=True))
def test_an_operator_may_interfere_at_any_moment(drawn: list[tuple[object, ...]]) -> None:
    story = Story(Bench(DrainFeasible(), [GatedNumpy(deadline_s=0.05)], max_queue=12))
    story.bench.run(story.replay(drawn))
    check_story(story)


@settings(max_examples=8, deadline=None)
@given(rows=st.lists(st.integers(1, 4), min_size=1, max_size=24), seed=st.integers(0, 1000))
def test_concurrent_answers_equal_serial_ones(rows: list[int], seed: int) -> None:
    """N at once on real threads, against one by one."""
    from prometheus_client import CollectorRegistry

    from service.scheduling.scheduler import Scheduler
    from service.scheduling.worker import ThreadWorkers
    from service.telemetry.metrics import Metrics
    from service.types import Work
    from tests.support.manual import profile_of

    model = GatedNumpy(deadline_s=60.0)
    random = np.random.default_rng(seed)
    inputs = [{"x": random.integers(-9, 10, (count, 8)).astype(np.float64)} for count in rows]

    async def scenario() -> list[Completion]:
        loop = asyncio.get_running_loop()
        scheduler = Scheduler(DrainFeasible(), ThreadWorkers(2), Metrics(CollectorRegistry()), clock=loop.time)
        scheduler.add_model(model, profile_of(model))
        works = [Work("gated", "1", x, len(x["x"]), Contract(), loop.time()) for x in inputs]
        try:
            return await asyncio.gather(*[scheduler.submit(work) for work in works])
        finally:
            scheduler.close()

    for one, completion in zip(inputs, asyncio.run(scenario()), strict=True):
        alone = model.infer(one, np.full(len(one["x"]), completion.budget))
        np.testing.assert_array_equal(completion.outputs["y"], alone.outputs["y"])
