"""The open-loop load generator: every request leaves at its intended time, whatever became of the ones before it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from loadtests.answers import Answer, Outcome
from loadtests.clients import Client
from loadtests.records import Recorder, Run
from loadtests.schedules import Times

Scorer = Callable[[int, Answer], float]
Progress = Callable[[float, Recorder], None]

# A generator that is itself later than this share of the deadline (p99) measures itself, not the service.
MAX_LATENESS_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send. samples[i]: index of the prepared request that the i-th arrival sends; deadlines: seconds."""

    times: Times
    samples: np.ndarray
    deadlines: Times


async def run(plan: Plan, client: Client, score: Scorer, progress: Progress | None = None, max_open: int = 4096) -> Run:
    """Send everything, wait for every answer, return the record. Never waits for answers before sending.

    max_open bounds the requests under way: beyond it a request is recorded as LOST by the client, and counted.
    """
    start = time.perf_counter()
    recorder = Recorder(plan.times, plan.deadlines, start)
    open_tasks: set[asyncio.Task[None]] = set()

    async def one(index: int, sample: int) -> None:
        recorder.sent[index] = time.perf_counter() - start
        answer = await client.send(sample)
        recorder.record(index, time.perf_counter() - start, answer, score(sample, answer))

    last_progress = 0.0
    for index, intended in enumerate(plan.times):
        delay = intended - (time.perf_counter() - start)
        if delay > 0:
            await asyncio.sleep(delay)
        elif index % 64 == 0:
            await asyncio.sleep(0)  # behind schedule: let answers be read all the same
        if len(open_tasks) >= max_open:
            now = time.perf_counter() - start
            recorder.sent[index] = now
            recorder.record(index, now, Answer(Outcome.LOST, {}, detail="client: too many requests open"), float("nan"))
            continue
        task = asyncio.create_task(one(index, int(plan.samples[index])))
        open_tasks.add(task)
        task.add_done_callback(open_tasks.discard)
        if progress is not None and intended - last_progress > 0.25:
            progress(float(intended), recorder)
            last_progress = float(intended)
    if open_tasks:
        await asyncio.gather(*open_tasks)
    if progress is not None and plan.times.size:
        progress(float(plan.times[-1]), recorder)
    return recorder.finish()


def client_was_the_bottleneck(run: Run) -> str | None:
    """A sentence that says so when the generator could not keep its own schedule, else None."""
    lateness = run.sent - run.intended
    lateness = lateness[~np.isnan(lateness)]
    if not lateness.size:
        return None
    p99 = float(np.percentile(lateness, 99))
    deadline = float(run.deadline.min())
    if p99 > MAX_LATENESS_SHARE * deadline:
        return (
            f"the client sent late (p99 {p99 * 1e3:.1f} ms, over a quarter of the {deadline * 1e3:.0f} ms "
            "deadline): the generator or a busy machine was the bottleneck, not only the service"
        )
    return None
