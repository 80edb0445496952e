"""Workers and clock that a test moves by hand: no thread, no sleep, the same order on every run."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from models.interface import Arrays, ServableModel
from service.control.profile import ServiceProfile
from service.control.types import Policy
from service.errors import ServiceError
from service.scheduling.scheduler import Limits, Scheduler
from service.scheduling.worker import Done, Job, JobResult, run_job
from service.telemetry.metrics import Metrics
from service.types import Completion, Contract, Work

T = TypeVar("T")
Task = asyncio.Task[Completion]


class ManualClock:
    """Monotonic seconds that only `advance` moves."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class ManualWorkers:
    """Collects started jobs; `finish` computes one with the real model and delivers it."""

    def __init__(self, num_workers: int = 1) -> None:
        self.num_workers = num_workers
        self.jobs: list[tuple[Job, Done]] = []
        self.closed = False

    def start(self, job: Job, done: Done) -> None:
        assert len(self.jobs) < self.num_workers, "more jobs at once than workers"
        self.jobs.append((job, done))

    def close(self) -> None:
        self.closed = True

    def finish(self, index: int = 0, compute_s: float | None = None) -> JobResult:
        """compute_s: what the worker says it took; None = what it took."""
        job, done = self.jobs.pop(index)
        result = run_job(job)
        if compute_s is not None and not result.retried:
            result = replace(result, compute_s=compute_s)
        done(result)
        return result


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop whose timers follow a ManualClock: `call_later` fires when the clock says so, never by waiting."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def time(self) -> float:
        return self._clock.now_s


async def settle(turns: int = 10) -> None:
    """Let everything that is ready on the event loop run."""
    for _ in range(turns):
        await asyncio.sleep(0)


class Bench:
    """A scheduler whose clock, timers and workers are moved by hand."""

    def __init__(self, policy: Policy, models: Sequence[ServableModel], **limits: Any) -> None:
        self.clock = ManualClock()
        self.loop = ManualLoop(self.clock)
        self.workers = ManualWorkers(limits.pop("num_workers", 1))
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, [model.spec.default_deadline_s for model in models])
        quota = limits.pop("quota", None)
        self._clients: list[Task] = []
        self.scheduler = Scheduler(policy, self.workers, self.metrics, Limits(**limits), self.clock, quota)
        for model in models:
            self.scheduler.add_model(model, profile_of(model))

    def run(self, scenario: Coroutine[Any, Any, T]) -> T:
        """Run a test's coroutine to its end on the manual loop."""
        try:
            return self.loop.run_until_complete(self._play(scenario))
        finally:
            self.loop.close()

    async def _play(self, scenario: Coroutine[Any, Any, T]) -> T:
        """What still waits when the scenario ends gets its answer while there is a loop to get it on."""
        try:
            return await scenario
        finally:
            self.scheduler.close()
            await settle()
            for client in self._clients:
                client.cancel()  # of a batch that the scenario never finished
            for ended in await asyncio.gather(*self._clients, return_exceptions=True):
                if isinstance(ended, BaseException) and not isinstance(ended, ServiceError | asyncio.CancelledError):
                    raise ended

    def submit(self, inputs: Arrays, contract: Contract | None = None, model: str = "gated") -> Task:
        """Start a request now; it is queued after `settle`."""
        rows = len(next(iter(inputs.values())))
        work = Work(model, "1", inputs, rows, contract or Contract(), self.clock.now_s)
        client = self.loop.create_task(self.scheduler.submit(work))
        self._clients.append(client)
        return client

    async def advance(self, seconds: float) -> None:
        """Let time pass and everything that is due happen."""
        self.clock.now_s += seconds
        await settle()

    async def finish(self, seconds: float = 0.0, index: int = 0) -> None:
        """The batch `index` ends after `seconds` of computing."""
        self.clock.now_s += seconds
        self.workers.finish(index, seconds)
        await settle()

    async def finish_all(self, seconds: float = 0.0) -> None:
        """Run batches, one after the other, until nothing is left."""
        await settle()
        while self.workers.jobs:
            await self.finish(seconds)

    def sample(self, name: str, **labels: str) -> float:
        """Value of one metric series; 0 if nobody touched it."""
        if not self.loop.is_closed():
            self.scheduler.publish_metrics()
        labels = {"model": "gated", "version": "1"} | labels
        return self.registry.get_sample_value(f"swan_{name}", labels) or 0.0


def profile_of(model: ServableModel, t0: float = 0.002, per_row: float = 0.001, slope: float = 0.009) -> ServiceProfile:
    """seconds = t0 + rows * (per_row + slope * budget): what `finish` is told to take in these tests."""
    lowest = model.table.floor if model.table else 1.0
    budgets = (lowest, 1.0) if lowest < 1.0 else (0.999, 1.0)
    return ServiceProfile.affine(t0, per_row, slope, budgets, model.spec.max_batch_size)
