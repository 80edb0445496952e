"""Batches of models in the engine run there; all others run on threads of the replica."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from service.engine import wire
from service.engine.channel import Line, LineLost
from service.engine.client import Engine, EngineModel
from service.errors import ModelFailed
from service.scheduling.worker import Done, Job, JobResult, Workers, joined, split

log = logging.getLogger(__name__)


class EngineWorkers:
    """A Workers. threads: for models that live in the replica, and for whatever goes wrong.

    A batch that fails in the engine runs again on a thread, which finds out which of its requests is to blame.
    """

    def __init__(self, engine: Engine, threads: Workers) -> None:
        self._engine, self._threads = engine, threads
        self._idle: list[Line] = []
        self._lines: Sequence[Line] = ()
        self._pid: int | None = None
        self._opening = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()

    @property
    def num_workers(self) -> int:
        return self._threads.num_workers

    def start(self, job: Job, done: Done) -> None:
        if not isinstance(job.model, EngineModel):
            self._threads.start(job, done)
            return
        if self._idle and self._pid == self._engine.pid:
            try:
                question = job.model.question(joined(job.inputs), job.budgets)
            except Exception as error:
                self._run_again(job, done, error)
                return
            line = self._idle.pop()
            line.ask(*question).add_done_callback(lambda answered: self._finish(job, done, line, answered))
            return
        task = asyncio.get_running_loop().create_task(self._open_and_start(job, done))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def close(self) -> None:
        for line in self._lines:
            line.close()
        self._threads.close()

    async def _open_and_start(self, job: Job, done: Done) -> None:
        """The engine has just been started, or must be: a thread waits for that, and finds out if it cannot be."""
        with contextlib.suppress(ModelFailed, OSError):
            await self._open()
        if self._idle and self._pid == self._engine.pid:
            self.start(job, done)
        else:
            self._threads.start(job, done)

    async def _open(self) -> None:
        async with self._opening:
            if self._pid is not None and self._pid == self._engine.pid:
                return
            for line in self._lines:
                line.close()
            self._lines, self._idle = (), []
            pid, ends = await asyncio.to_thread(self._engine.take_lines)
            self._lines = [await Line.open(end) for end in ends]
            self._pid, self._idle = pid, list(self._lines)

    def _finish(self, job: Job, done: Done, line: Line, answered: asyncio.Future[wire.Plain]) -> None:
        if line in self._lines and not line.lost:
            self._idle.append(line)
        try:
            status, result = answered.result()
            if status != wire.OK:
                self._threads.start(job, done)
                return
            output, compute_s, ended_s = result
            answers = split(wire.output_of(output), job.rows)
        except Exception as error:
            self._run_again(job, done, error)
            return
        done(JobResult(answers, compute_s=compute_s, ended_s=ended_s))

    def _run_again(self, job: Job, done: Done, error: Exception) -> None:
        """On a thread. Whatever went wrong here must not leave the batch without an answer."""
        if not isinstance(error, LineLost):
            log.warning("a batch of %d requests failed: running it on a thread", len(job.rows), exc_info=error)
        self._threads.start(job, done)
