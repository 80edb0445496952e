"""Who runs work: the seam to the scheduler, and DirectExecutor, which runs each request alone and at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.interface import ModelOutput, ServableModel
from service.errors import DeadlineExceeded
from service.types import Completion, Haste, LimitedBy, Work


class Executor(Protocol):
    """Runs admitted work. Cancelling `submit` frees whatever the work holds."""

    @property
    def flooded(self) -> bool:
        """Whether some model is asked for more than it can answer; else `takes` is always true."""

    def takes(self, name: str, version: str, haste: Haste) -> bool:
        """Whether one more request for a model is worth reading; one that is not is counted as shed."""

    def count_shed(self, name: str, version: str, reason: str) -> None:
        """A request for this model was refused before it could become work."""

    async def submit(self, work: Work) -> Completion:
        """Raises Overloaded, Unavailable, DeadlineExceeded, InvalidRequest, ModelFailed, or what the model raised."""


class DirectExecutor:
    """No queue, no batching, no policy: every request runs at once at the largest budget it allows.

    The null scheduler: baseline and test double. find_model: (name, version) -> loaded model.
    """

    def __init__(self, find_model: Callable[[str, str], ServableModel], num_threads: int = 1) -> None:
        self._find_model = find_model
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="direct")

    @property
    def flooded(self) -> bool:
        return False

    def takes(self, name: str, version: str, haste: Haste) -> bool:
        return True

    def count_shed(self, name: str, version: str, reason: str) -> None:
        """Nothing is counted here."""

    async def submit(self, work: Work) -> Completion:
        model = self._find_model(work.model, work.version)
        budget = work.contract.quality.maximum
        budgets = np.full(work.rows, budget, dtype=np.float64)
        loop = asyncio.get_running_loop()
        started, output, ended = await self._in_time(
            loop.run_in_executor(self._pool, _timed_infer, model, work, budgets), work
        )
        timeout_s = model.spec.default_deadline_s if work.contract.timeout_s is None else work.contract.timeout_s
        return Completion(
            outputs=output.outputs,
            reports=output.reports,
            budget=budget,
            limited_by=LimitedBy.REQUEST if budget < 1.0 else LimitedBy.NONE,
            quality_expected=model.table.expected_quality(budget) if model.table else None,
            queue_s=max(0.0, started - work.arrival_s),
            compute_s=ended - started,
            batch_size=work.rows,
            deadline_met=time.monotonic() - work.arrival_s <= timeout_s,
        )

    async def _in_time(
        self, running: asyncio.Future[tuple[float, ModelOutput, float]], work: Work
    ) -> tuple[float, ModelOutput, float]:
        """Only a deadline that the client asked for is enforced; the model's default one is reported."""
        timeout_s = work.contract.timeout_s
        if timeout_s is None:
            return await running
        try:
            async with asyncio.timeout(max(0.0, work.arrival_s + timeout_s - time.monotonic())):
                return await running
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within the deadline of {timeout_s:g} s") from None

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _timed_infer(model: ServableModel, work: Work, budgets: NDArray[np.float64]) -> tuple[float, ModelOutput, float]:
    started = time.monotonic()
    output = model.infer(work.inputs, budgets)
    return started, output, time.monotonic()
