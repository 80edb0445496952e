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

BURST = 64  # requests begun before answers are read again
TICK_S = 0.001
CLOSE_S = 0.005  # arrivals nearer to each other than this leave by the tick
PROGRESS_S = 0.25
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
    sender = _Sender(plan, client, score, max_open)
    await sender.send_all(progress)
    await sender.all_answered()
    if progress is not None and plan.times.size:
        progress(float(plan.times[-1]), sender.recorder)
    return sender.recorder.finish()


class _Sender:
    """Starts what is due and records what comes back."""

    def __init__(self, plan: Plan, client: Client, score: Scorer, max_open: int) -> None:
        self._plan, self._client, self._score, self._max_open = plan, client, score, max_open
        self._open = 0
        self._none_open = asyncio.Event()
        self.recorder = Recorder(plan.times, plan.deadlines, began=time.perf_counter())

    def _now(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.recorder.began

    async def send_all(self, progress: Progress | None) -> None:
        times, index, shown = self._plan.times, 0, 0.0
        while index < times.size:
            now = self._now()
            due = min(int(np.searchsorted(times, now, side="right")), index + BURST)
            for number in range(index, due):
                self._begin(number)
            index = due
            if progress is not None and now - shown > PROGRESS_S:
                progress(now, self.recorder)
                shown = now
            if index < times.size:
                await asyncio.sleep(self._pause(index))

    def _pause(self, index: int) -> float:
        """Until the next request is due; 0 lets answers be read when it is already.

        NOTE: uvloop's timers count milliseconds and turn what is less than half of one into another turn at once. Where
        requests follow each other closely that would burn a core that the service needs, so they leave by the tick.
        """
        times = self._plan.times
        delay = float(times[index]) - self._now()
        if delay <= 0.0:
            return 0.0
        close = index > 0 and times[index] - times[index - 1] < CLOSE_S
        return max(delay, TICK_S) if close else delay

    def _begin(self, index: int) -> None:
        now = self._now()
        self.recorder.sent[index] = now
        if self._open >= self._max_open:
            refused = Answer(Outcome.LOST, {}, detail="client: too many requests open")
            self.recorder.record(index, now, refused, float("nan"))
            return
        self._open += 1
        sample = int(self._plan.samples[index])
        self._client.start(sample, lambda answer: self._end(index, sample, answer))

    def _end(self, index: int, sample: int, answer: Answer) -> None:
        try:
            self.recorder.record(index, self._now(), answer, self._score(sample, answer))
        finally:
            self._open -= 1
            if not self._open:
                self._none_open.set()

    async def all_answered(self) -> None:
        while self._open:
            self._none_open.clear()
            await self._none_open.wait()


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
