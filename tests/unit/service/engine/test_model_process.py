"""A model that lives in a process of its own answers like one that lives here, and outlives that process."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import uvloop

from models.interface import ServableModel, ShowsUnits
from models.registry import find_package, load_package, shipped_repository
from service.engine import client
from service.engine.client import Engine, EngineError, EngineModel
from service.engine.workers import EngineWorkers
from service.errors import InvalidRequest, ModelFailed, ServiceError
from service.scheduling.worker import Answer, Done, Job, JobResult, ThreadWorkers, run_job
from swan_runtime.errors import InvalidInputError
from tests.support.tiny_models import identity

FOLDER = find_package(shipped_repository(), "fashion-mlp")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(threads=1, log_level="error", log_format="json")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def here() -> ServableModel:
    return load_package(FOLDER)


@pytest.fixture(scope="module")
def there(engine: Engine) -> EngineModel:
    return engine.load(FOLDER)


class NoThreads(ThreadWorkers):
    """Whatever is handed to a thread fails the test."""

    def __init__(self) -> None:
        super().__init__(1)

    def start(self, job: Job, done: Done) -> None:
        raise AssertionError("a batch went to a thread")


def batch(model: ServableModel, rows: int = 3, requests: int = 2) -> Job:
    inputs = {name: array[:rows].copy() for name, array in model.example(rows).items()}
    budgets = np.linspace(0.1, 1.0, rows * requests)
    return Job(model, (inputs,) * requests, (rows,) * requests, budgets)


def poisoned(job: Job) -> Job:
    """The first request holds a value that the model refuses."""
    bad = {name: np.full_like(array, np.nan) for name, array in job.inputs[0].items()}
    return Job(job.model, (bad, *job.inputs[1:]), job.rows, job.budgets)


async def run(workers: EngineWorkers, job: Job) -> JobResult:
    done: asyncio.Future[JobResult] = asyncio.get_running_loop().create_future()
    workers.start(job, done.set_result)
    return await asyncio.wait_for(done, 60)


def assert_same(got: JobResult, wanted: JobResult) -> None:
    for one, other in zip(got.answers, wanted.answers, strict=True):
        assert isinstance(one, Answer)
        assert isinstance(other, Answer)
        assert [report.macs for report in one.reports] == [report.macs for report in other.reports]
        for name, array in other.outputs.items():
            np.testing.assert_allclose(one.outputs[name], array, rtol=1e-5, atol=1e-6)


def test_it_says_what_the_model_says(here: ServableModel, there: EngineModel) -> None:
    assert there.spec == here.spec
    assert there.table == here.table
    assert there.fingerprint != here.fingerprint  # its times are others
    assert_same(run_job(batch(there)), run_job(batch(here)))


def test_it_can_round_its_weights(there: EngineModel) -> None:
    engine = Engine(1, "error", "json", "bfloat16")
    rounded = engine.load(FOLDER)
    assert rounded.fingerprint == f"{load_package(FOLDER, 'bfloat16').fingerprint} in a process"
    job = batch(rounded)
    assert_same(run_job(job), run_job(replace(job, model=load_package(FOLDER, "bfloat16"))))
    engine.close()


def test_its_units_can_be_looked_at(here: ServableModel, there: EngineModel) -> None:
    assert isinstance(there, ShowsUnits)
    assert isinstance(here, ShowsUnits)
    row = here.example(1)
    for name, shares in here.fired_units(row, 0.2).items():
        np.testing.assert_array_equal(there.fired_units(row, 0.2)[name], shares)


def test_what_the_model_refuses_is_refused_in_its_words(here: ServableModel, there: EngineModel) -> None:
    rows = {name: np.full_like(array, np.nan) for name, array in here.example(1).items()}
    messages = []
    for model in (here, there):
        with pytest.raises(InvalidInputError) as caught:
            model.infer(rows, np.ones(1))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_folder_without_a_package_says_so(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="expected a folder named by digits"):
        engine.load(tmp_path)


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_the_loop_runs_batches_without_a_thread(
    runner: Callable[[Coroutine[None, None, None]], None], engine: Engine, here: ServableModel, there: EngineModel
) -> None:
    async def play() -> None:
        workers = EngineWorkers(engine, NoThreads())
        for _ in range(3):  # the first opens the line
            result = await run(workers, batch(there))
            assert_same(result, run_job(batch(here)))
            assert result.compute_s > 0.0
            assert result.ended_s is not None
        workers.close()

    runner(play())


async def test_one_bad_request_does_not_take_its_batch_along(engine: Engine, there: EngineModel) -> None:
    workers = EngineWorkers(engine, ThreadWorkers(1))
    result = await run(workers, poisoned(batch(there)))
    assert isinstance(result.answers[0], InvalidRequest)
    assert isinstance(result.answers[1], Answer)
    workers.close()


async def test_a_batch_whose_rows_do_not_add_up_is_answered(engine: Engine, there: EngineModel) -> None:
    workers = EngineWorkers(engine, ThreadWorkers(1))
    job = batch(there)
    result = await run(workers, replace(job, rows=(3, 2)))  # as if the second request had been given a row too many
    assert isinstance(result.answers[0], Answer)
    assert isinstance(result.answers[1], ServiceError)
    assert_same(await run(workers, job), run_job(job))
    workers.close()


async def test_a_batch_that_cannot_be_asked_is_answered(engine: Engine, there: EngineModel) -> None:
    workers = EngineWorkers(engine, ThreadWorkers(1))
    job = batch(there)
    await run(workers, job)
    result = await run(workers, replace(job, inputs=(job.inputs[0], {})))
    assert isinstance(result.answers[0], Answer)
    assert isinstance(result.answers[1], ServiceError)
    workers.close()


async def test_other_models_run_on_the_replicas_threads(engine: Engine) -> None:
    workers = EngineWorkers(engine, ThreadWorkers(1))
    model = identity("FP32")
    result = await run(workers, Job(model, (model.example(2),), (2,), np.ones(2)))
    assert isinstance(result.answers[0], Answer)
    workers.close()


async def test_a_death_costs_an_answer_at_most(here: ServableModel) -> None:
    engine = Engine(1, "error", "json")
    workers = EngineWorkers(engine, ThreadWorkers(1))
    model = engine.load(FOLDER)
    job = batch(model, requests=1)
    await run(workers, job)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    results = [await run(workers, job) for _ in range(3)]
    assert_same(results[-1], run_job(batch(here, requests=1)))
    failures = [answer for result in results for answer in result.answers if not isinstance(answer, Answer)]
    assert len(failures) <= 1
    assert all(isinstance(failure, ModelFailed) for failure in failures)
    assert engine.healthy
    workers.close()
    engine.close()


async def test_a_model_that_cannot_be_loaded_again_is_an_error_and_no_silence(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER.parent.name / FOLDER.name
    shutil.copytree(FOLDER, folder)
    engine = Engine(1, "error", "json")
    workers = EngineWorkers(engine, ThreadWorkers(1))
    model = engine.load(folder)
    job = batch(model)
    await run(workers, job)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    shutil.rmtree(folder)
    for _ in range(2):
        result = await run(workers, job)
        assert all(isinstance(answer, ModelFailed) for answer in result.answers)
    workers.close()
    engine.close()


def test_who_dies_again_and_again_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_DEATHS", 2)
    engine = Engine(1, "error", "json")
    model = engine.load(FOLDER)
    row, budget = model.example(1), np.ones(1)
    for _ in range(2):
        assert engine.healthy
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(ModelFailed, match="started again"):
            model.infer(row, budget)
        model.example(1)  # it lives again
    assert not engine.healthy
    engine.close()


def test_a_model_that_nobody_uses_is_dropped(engine: Engine) -> None:
    model = engine.load(FOLDER)
    before = len(engine._loaded)
    del model
    gc.collect()
    assert len(engine._loaded) == before - 1


def test_closing_leaves_no_process() -> None:
    engine = Engine(1, "error", "json")
    engine.load(FOLDER)
    pid = engine.pid
    assert pid is not None
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
