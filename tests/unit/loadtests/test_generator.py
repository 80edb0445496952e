"""The generator against clients whose answers are under the test's control."""

import asyncio

import numpy as np
import pytest

from loadtests.answers import Answer, Outcome
from loadtests.clients import Awaited
from loadtests.generator import Plan, client_was_the_bottleneck, run
from loadtests.records import Recorder, summarise
from loadtests.statistics import ratio_interval


class HeldClient(Awaited):
    """Answers nothing until released: a service that hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.release = asyncio.Event()

    async def send(self, index: int) -> Answer:
        self.seen += 1
        await self.release.wait()
        return Answer(Outcome.OK, {"quality_budget": 0.5})

    async def close(self) -> None: ...


async def test_a_hanging_service_does_not_hold_back_the_next_request() -> None:
    client = HeldClient()
    plan = Plan(np.linspace(0.0, 0.02, 50), np.arange(50), np.ones(50))
    task = asyncio.create_task(run(plan, client, lambda index, answer: 1.0))
    while client.seen < 50:
        await asyncio.sleep(0)
    assert not task.done()
    client.release.set()
    result = await task
    assert (result.outcome == Outcome.OK).all()
    assert (
        result.latency >= 0.02 - plan.times - 1e-3
    ).all()  # counted from the intended time, so early ones waited longest


async def test_requests_beyond_the_open_limit_are_counted_as_lost_not_forgotten() -> None:
    client = HeldClient()
    task = asyncio.create_task(
        run(Plan(np.zeros(10), np.arange(10), np.ones(10)), client, lambda i, a: 1.0, max_open=4)
    )
    while client.seen < 4:
        await asyncio.sleep(0)
    client.release.set()
    result = await task
    assert (result.outcome == Outcome.LOST).sum() + (result.outcome == Outcome.OK).sum() == 10
    assert (result.outcome == Outcome.LOST).sum() >= 1


def recorded(latencies_s: list[float], outcomes: list[Outcome], deadline_s: float = 0.1) -> Recorder:
    recorder = Recorder(np.arange(len(latencies_s), dtype=float), np.full(len(latencies_s), deadline_s))
    for i, (latency, outcome) in enumerate(zip(latencies_s, outcomes, strict=True)):
        recorder.sent[i] = i
        score = 1.0 if outcome == Outcome.OK else float("nan")
        recorder.record(i, i + latency, Answer(outcome, {"quality_budget": 0.5}), score)
    return recorder


def test_late_refused_and_lost_answers_are_told_apart_and_count_as_wrong() -> None:
    outcomes = [Outcome.OK, Outcome.OK, Outcome.REFUSED, Outcome.LOST]
    summary = summarise(recorded([0.05, 0.2, 0.001, 1.0], outcomes).finish(), end=4.0)
    assert summary.on_time_ratio == 0.25 and summary.late_ratio == 0.25
    assert summary.refused_ratio == 0.25 and summary.lost_ratio == 0.25
    assert summary.accuracy == 1.0 and summary.effective_accuracy == 0.25
    assert summary.goodput_rps == pytest.approx(0.25) and summary.max_ms == pytest.approx(200, rel=0.01)
    assert summary.refusal_p99_ms == pytest.approx(1.0)


def test_a_late_client_says_so() -> None:
    recorder = recorded([0.05] * 10, [Outcome.OK] * 10)
    assert client_was_the_bottleneck(recorder.finish()) is None
    recorder.sent += 0.03
    assert "client sent late" in str(client_was_the_bottleneck(recorder.finish()))


def test_what_disturbs_both_sides_of_a_pair_cancels_in_the_ratio() -> None:
    noise = np.random.default_rng(0).uniform(0.2, 1.0, 40)
    interval = ratio_interval(list(3.0 * noise), list(noise))
    assert interval.estimate == pytest.approx(3.0) and interval.low == pytest.approx(3.0) == interval.high
