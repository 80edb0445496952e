"""Batches on real threads: joining and splitting, failures that stay where they belong, threads that die."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from models.interface import Arrays, ModelOutput
from service.errors import InvalidRequest, ModelFailed
from service.scheduling.worker import SHORT_S, Answer, Job, JobResult, ThreadWorkers, run_job
from tests.support.gated_numpy import GatedNumpy


def job(*inputs: NDArray[np.float64], model: GatedNumpy | None = None) -> Job:
    rows = tuple(len(x) for x in inputs)
    return Job(model or GatedNumpy(), tuple({"x": x} for x in inputs), rows, np.ones(sum(rows)))


async def run_on(workers: ThreadWorkers, *jobs: Job) -> list[JobResult]:
    """Start all jobs and wait for their results, in the order of the jobs."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[JobResult]] = [loop.create_future() for _ in jobs]
    for one, future in zip(jobs, futures, strict=True):
        workers.start(one, future.set_result)
    return await asyncio.gather(*futures)


class Echo(GatedNumpy):
    """Answers its input, of any datatype, BYTES too."""

    def infer(self, inputs: Arrays, budgets: NDArray[np.float64]) -> ModelOutput:
        reports = super().infer({"x": np.zeros((len(budgets), 8))}, budgets).reports
        return ModelOutput({"y": inputs["x"]}, reports)


def test_text_of_different_lengths_is_joined_and_split() -> None:
    texts = [np.array([[b"a"], [b"bb" * 1000]], dtype=object), np.array([[b""]], dtype=object)]
    result = run_job(Job(Echo(), tuple({"x": x} for x in texts), (2, 1), np.ones(3)))
    assert [answer.outputs["y"].tolist() for answer in result.answers if isinstance(answer, Answer)] == [
        x.tolist() for x in texts
    ]


def test_budgets_stay_with_their_rows_when_a_batch_is_retried_singly() -> None:
    good, poison = np.ones((2, 8)), np.full((1, 8), -1e7)
    one = Job(GatedNumpy(), ({"x": poison}, {"x": good}), (1, 2), np.array([1.0, 0.25, 0.5]))
    result = run_job(one)
    assert result.retried
    assert isinstance(result.answers[0], ModelFailed)
    assert isinstance(result.answers[1], Answer)
    assert [report.budget for report in result.answers[1].reports] == [0.25, 0.5]


def test_a_refused_value_names_itself_and_a_failure_does_not() -> None:
    refused = run_job(job(np.full((1, 8), np.nan))).answers[0]
    assert isinstance(refused, InvalidRequest)
    assert "NaN" in refused.message
    failed = run_job(job(np.full((1, 8), -1e7))).answers[0]
    assert isinstance(failed, ModelFailed)
    assert "secret" not in failed.message


class Short(GatedNumpy):
    """Breaks the contract: forgets a row as soon as there are two."""

    def infer(self, inputs: Arrays, budgets: NDArray[np.float64]) -> ModelOutput:
        output = super().infer(inputs, budgets)
        keep = max(1, len(budgets) - 1)
        return ModelOutput({"y": output.outputs["y"][:keep]}, output.reports)


def test_a_model_that_loses_rows_never_gets_them_mixed_up() -> None:
    x, y = np.ones((1, 8)), np.full((1, 8), 2.0)
    result = run_job(job(x, y, model=Short()))
    for answer, single in zip(result.answers, (x, y), strict=True):
        assert isinstance(answer, Answer)
        np.testing.assert_array_equal(answer.outputs["y"], GatedNumpy().infer({"x": single}, np.ones(1)).outputs["y"])


class Meeting(GatedNumpy):
    """Each call waits until another thread is in a call too."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__()
        self._barrier = barrier

    def infer(self, inputs: Arrays, budgets: NDArray[np.float64]) -> ModelOutput:
        self._barrier.wait(60.0)
        return super().infer(inputs, budgets)


async def test_batches_run_on_as_many_threads_as_there_are_workers() -> None:
    workers = ThreadWorkers(2)
    model = Meeting(threading.Barrier(2))
    results = await run_on(workers, job(np.ones((1, 8)), model=model), job(np.ones((1, 8)), model=model))
    assert all(isinstance(result.answers[0], Answer) for result in results)
    workers.close()


class Deadly(GatedNumpy):
    """Ends the thread that runs it."""

    def infer(self, inputs: Arrays, budgets: NDArray[np.float64]) -> ModelOutput:
        raise SystemExit


async def test_a_thread_that_dies_is_replaced_and_its_requests_are_answered() -> None:
    workers = ThreadWorkers(1)
    died, after = await run_on(workers, job(np.ones((1, 8)), model=Deadly()), job(np.ones((1, 8))))
    assert died.worker_died
    assert isinstance(died.answers[0], ModelFailed)
    assert isinstance(after.answers[0], Answer)
    workers.close()


async def test_closed_workers_end_their_threads() -> None:
    name = "swan-worker-of-this-test"
    workers = ThreadWorkers(2, name)
    await run_on(workers, job(np.ones((1, 8))))
    workers.close()
    for thread in threading.enumerate():
        if thread.name == name:
            await asyncio.to_thread(thread.join, 60.0)
            assert not thread.is_alive()


def test_an_answer_after_the_loop_has_closed_is_dropped_quietly(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="service.scheduling.worker")
    reached, may_end = threading.Event(), threading.Event()

    class Slow(GatedNumpy):
        def infer(self, inputs: Arrays, budgets: NDArray[np.float64]) -> ModelOutput:
            reached.set()
            may_end.wait(60.0)
            return super().infer(inputs, budgets)

    name = "swan-worker-late"
    started: list[ThreadWorkers] = []

    async def leave_early() -> None:
        workers = ThreadWorkers(1, name)
        started.append(workers)
        workers.start(job(np.ones((1, 8)), model=Slow()), lambda result: None)
        await asyncio.to_thread(reached.wait, 60.0)

    asyncio.run(leave_early())
    threads = [thread for thread in threading.enumerate() if thread.name == name]
    started[0].close()
    may_end.set()
    for thread in threads:
        thread.join(60.0)
    assert "the event loop closed" in caplog.text


@pytest.mark.parametrize("number", [0, -1])
def test_at_least_one_worker(number: int) -> None:
    make: Callable[[int], ThreadWorkers] = ThreadWorkers
    with pytest.raises(ValueError, match="num_workers"):
        make(number)


class Where(GatedNumpy):
    """Notes the thread it runs on; may try to end it."""

    ending: type[BaseException] | None = None

    def infer(self, inputs: Arrays, budgets: NDArray[np.float64]) -> ModelOutput:
        self.thread = threading.current_thread()
        if self.ending:
            raise self.ending
        return super().infer(inputs, budgets)


@pytest.mark.parametrize(("expected_s", "here"), [(SHORT_S / 2, True), (SHORT_S, False), (float("inf"), False)])
async def test_only_a_job_too_short_for_a_thread_runs_on_the_loop(expected_s: float, here: bool) -> None:
    workers, model = ThreadWorkers(1), Where()
    (result,) = await run_on(workers, replace(job(np.ones((2, 8)), model=model), expected_s=expected_s))
    workers.close()
    assert isinstance(result.answers[0], Answer)
    assert (model.thread is threading.current_thread()) == here


async def test_a_short_job_cannot_end_the_loop() -> None:
    workers, model = ThreadWorkers(1), Where()
    short = replace(job(np.ones((1, 8)), np.ones((1, 8)), model=model), expected_s=SHORT_S / 2)
    model.ending = SystemExit
    (failed,) = await run_on(workers, short)
    model.ending = None
    (fine,) = await run_on(workers, short)
    workers.close()
    assert failed.worker_died
    assert [type(answer) for answer in failed.answers] == [ModelFailed, ModelFailed]
    assert [type(answer) for answer in fine.answers] == [Answer, Answer]
