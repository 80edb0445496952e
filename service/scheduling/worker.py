"""Runs batches on threads and hands the answers to the event loop; a batch that fails is retried request by request."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.interface import Arrays, ModelOutput, ServableModel
from service.errors import InvalidRequest, ModelFailed, ServiceError
from swan_runtime.errors import InvalidInputError
from swan_runtime.report import ComputeReport

log = logging.getLogger(__name__)

# Handing a batch to a thread and back costs two thread switches under one interpreter lock, more than so small a model;
# beside a gRPC server, which polls on a third thread, most of all (identity over gRPC on 2 shared cores, without Ray:
# 0.81 ms of CPU a request through a thread, 0.54 without).
SHORT_S = 1e-4


@dataclass(frozen=True, slots=True)
class Job:
    """One batch: the inputs and row count of each request, and one budget per row over all of them.

    expected_s: how long it should take, as far as anybody knows.
    """

    model: ServableModel
    inputs: tuple[Arrays, ...]
    rows: tuple[int, ...]
    budgets: NDArray[np.float64]
    expected_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's share of a batch: outputs [rows, ...] and a report per row."""

    outputs: Arrays
    reports: tuple[ComputeReport, ...]


@dataclass(frozen=True, slots=True)
class JobResult:
    """An answer or an error for each request, in order; seconds for joining inputs, computing, splitting outputs.

    retried: the batch failed as a whole and its requests ran one by one, so its times say nothing about the model.
    worker_died: the thread ended with the batch; its replacement runs already.
    ended_s: when, on the monotonic clock; None where nobody looked.
    """

    answers: tuple[Answer | ServiceError, ...]
    input_s: float = 0.0
    compute_s: float = 0.0
    output_s: float = 0.0
    retried: bool = False
    worker_died: bool = False
    ended_s: float | None = None


Done = Callable[[JobResult], None]


class Workers(Protocol):
    """Where batches run. The scheduler never starts more jobs at once than there are workers."""

    @property
    def num_workers(self) -> int: ...

    def start(self, job: Job, done: Done) -> None:
        """Begin a job; `done` is called once, on the event loop, with its result."""

    def close(self) -> None: ...


def run_job(job: Job, clock: Callable[[], float] = time.perf_counter) -> JobResult:
    """Run one batch on the calling thread. Never raises an Exception: errors are answers."""
    began = clock()
    try:
        inputs = joined(job.inputs)
        ready = clock()
        output = job.model.infer(inputs, job.budgets)
        computed = clock()
        answers: tuple[Answer | ServiceError, ...] = split(output, job.rows)
    except Exception as error:
        if len(job.rows) == 1:
            return JobResult((_as_service_error(error, job.model),), compute_s=clock() - began, retried=True)
        log.warning("a batch of %d requests failed with %s: running them singly", len(job.rows), type(error).__name__)
    else:
        return JobResult(answers, ready - began, computed - ready, clock() - computed)
    answers = tuple(run_job(single, clock).answers[0] for single in _singles(job))
    return JobResult(answers, compute_s=clock() - began, retried=True)


class ThreadWorkers:
    """`num_workers` threads that share one hand-over queue; results reach the loop through call_soon_threadsafe.

    A job of less than SHORT_S runs on the loop itself, which then waits for it.
    """

    def __init__(self, num_workers: int, name: str = "swan-worker") -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers: expected at least 1, got {num_workers}")
        self._num_workers = num_workers
        self._name = name
        self._jobs: SimpleQueue[tuple[Job, Done, asyncio.AbstractEventLoop] | None] = SimpleQueue()
        self._closed = False
        for _ in range(num_workers):
            self._start_thread()

    @property
    def num_workers(self) -> int:
        return self._num_workers

    def start(self, job: Job, done: Done) -> None:
        loop = asyncio.get_running_loop()
        if job.expected_s < SHORT_S:
            loop.call_soon(done, _run_here(job))
        else:
            self._jobs.put((job, done, loop))

    def close(self) -> None:
        """Let each thread end after what it runs now. Does not wait."""
        self._closed = True
        for _ in range(self._num_workers):
            self._jobs.put(None)

    def _start_thread(self) -> None:
        threading.Thread(target=self._serve, name=self._name, daemon=True).start()

    def _serve(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done, loop = item
            try:
                result = replace(run_job(job), ended_s=time.monotonic())
            except BaseException as error:
                # Not an Exception (SystemExit and the like): this thread ends, as it was told to, and another starts.
                log.error("a worker thread died; starting another", exc_info=error)
                if not self._closed:
                    self._start_thread()
                _deliver(loop, done, _died(job))
                return
            _deliver(loop, done, result)
            del item, job, done, result  # an idle worker must not keep the last batch in memory


def _run_here(job: Job) -> JobResult:
    try:
        return run_job(job)
    except KeyboardInterrupt:
        raise  # meant for the process, not for the model that happened to run
    except BaseException as error:
        log.error("a model tried to end its thread", exc_info=error)
        return _died(job)


def _died(job: Job) -> JobResult:
    failed = tuple(ModelFailed("the model failed") for _ in job.rows)
    return JobResult(failed, retried=True, worker_died=True)


def _deliver(loop: asyncio.AbstractEventLoop, done: Done, result: JobResult) -> None:
    try:
        loop.call_soon_threadsafe(done, result)
    except RuntimeError:
        log.info("the event loop closed before a batch ended")


def joined(inputs: Sequence[Arrays]) -> Arrays:
    """The rows of all requests of a batch, in order."""
    if len(inputs) == 1:
        return inputs[0]
    return {name: np.concatenate([arrays[name] for arrays in inputs]) for name in inputs[0]}


def split(output: ModelOutput, rows: Sequence[int]) -> tuple[Answer, ...]:
    """One answer for each request of `rows` rows. Raises RuntimeError for a model that answered another number."""
    total = sum(rows)
    lengths = {name: len(array) for name, array in output.outputs.items()}
    if len(output.reports) != total or any(length != total for length in lengths.values()):
        raise RuntimeError(f"a model answered {lengths} rows and {len(output.reports)} reports for {total} rows")
    if len(rows) == 1:
        return (Answer(output.outputs, output.reports),)
    answers, start = [], 0
    for count in rows:
        stop = start + count
        part = {name: array[start:stop] for name, array in output.outputs.items()}
        answers.append(Answer(part, output.reports[start:stop]))
        start = stop
    return tuple(answers)


def _singles(job: Job) -> list[Job]:
    stops = np.cumsum(job.rows)
    return [
        replace(job, inputs=(inputs,), rows=(count,), budgets=job.budgets[stop - count : stop])
        for inputs, count, stop in zip(job.inputs, job.rows, stops, strict=True)
    ]


def _as_service_error(error: Exception, model: ServableModel) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, InvalidInputError):
        # its text names a field, what was expected and what was got: made for the client.
        return InvalidRequest(str(error))
    log.error("model %s version %s raised", model.spec.name, model.spec.version, exc_info=error)
    return ModelFailed("the model failed")
