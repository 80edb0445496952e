"""Asks the policy what to run whenever a worker is idle, runs it, and answers what comes back."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from service.control.edf import EdfQueue
from service.control.governor import Governor
from service.control.types import BatchDone, Decision, ReplicaView
from service.scheduling.hosted import Entry, HostedModel
from service.scheduling.reply import ReplyDelay
from service.scheduling.waiting import WaitingRoom
from service.scheduling.worker import Answer, Job, JobResult, Workers
from service.telemetry.model_metrics import BatchCost, Served
from service.types import Completion

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Running:
    """A batch on a worker. started_s: dispatched; expected_end_s: when the policy expects it back."""

    hosted: HostedModel
    entries: list[Entry]
    decision: Decision
    rows: int
    started_s: float
    expected_end_s: float


class Dispatcher:
    """models: live view of what is hosted, by key. All methods run on the event loop."""

    def __init__(
        self,
        policy: Governor,
        workers: Workers,
        waiting: WaitingRoom,
        models: Mapping[str, HostedModel],
        clock: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._workers = workers
        self._waiting = waiting
        self._models = models
        self._clock = clock
        self._running: list[Running] = []
        self.reply = ReplyDelay(clock)
        self._woken = False
        self._alert = ""

    @property
    def running(self) -> list[Running]:
        return self._running

    def view(self) -> ReplicaView:
        queues: dict[str, EdfQueue] = {key: hosted.queue for key, hosted in self._models.items()}
        busy = [running.expected_end_s for running in self._running]
        return ReplicaView(self._clock(), queues, busy, self._workers.num_workers)

    def delay_s(self, timeout_s: float) -> float:
        """Seconds that an answer takes at least beside its computation: until a worker is free, and back."""
        busy_s = 0.0
        if len(self._running) >= self._workers.num_workers:
            busy_s = max(0.0, min([running.expected_end_s for running in self._running]) - self._clock())
        return busy_s + self.reply.of(timeout_s)

    def wake(self) -> None:
        """Dispatch at the end of this turn of the event loop: what arrives in the same turn can share a batch."""
        if not self._woken and len(self._running) < self._workers.num_workers:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._on_wake)

    def _on_wake(self) -> None:
        self._woken = False
        self._fill_workers()

    def _fill_workers(self) -> None:
        deferrals = 0
        while len(self._waiting) and len(self._running) < self._workers.num_workers:
            decision = self._decide()
            if decision is None:
                return
            for item in decision.deferred:
                self._waiting.defer(item)
            for shed in decision.sheds:
                self._waiting.shed(shed.item, shed.reason)
            if not decision.batch and decision.deferred and not decision.sheds:
                deferrals += 1
                if deferrals > 1:  # deferring again changes nothing: late is what best effort asked for
                    decision = self._policy.fall_back(self.view()) or decision
            if decision.batch:
                deferrals = 0
                self._launch(decision)
            elif not (decision.sheds or decision.deferred):
                return

    def _decide(self) -> Decision | None:
        began = time.perf_counter()
        decision = self._policy.decide(self.view())
        if decision is None:
            return None
        hosted = self._models[decision.model]
        hosted.metrics.observe_decision(time.perf_counter() - began)
        hosted.decided_budget = self._policy.wanted_budget
        if decision.alert or self._alert:
            self._tell_alert(hosted, decision.alert)
        return decision

    def _tell_alert(self, hosted: HostedModel, alert: str) -> None:
        """Every decision that a watchdog forced is counted; only the first of a row is logged."""
        if alert:
            hosted.metrics.count_watchdog()
            if not self._alert:
                log.error("model %s runs at its floor: %s", hosted.key, alert)
        self._alert = alert

    def _launch(self, decision: Decision) -> None:
        hosted = self._models[decision.model]
        entries = self._waiting.take(decision.batch)
        now = self._clock()
        hosted.last_budget = hosted.served(decision.budget)
        budgets: list[float] = []
        for entry in entries:
            entry.dispatched_s = now
            entry.budget = hosted.served(entry.item.clip(decision.budget))
            budgets.extend([entry.budget] * entry.item.rows)
        running = Running(hosted, entries, decision, len(budgets), now, now + decision.expected_s)
        self._running.append(running)
        job = Job(
            hosted.model,
            tuple(entry.work.inputs for entry in entries),
            tuple(entry.item.rows for entry in entries),
            np.array(budgets, dtype=np.float64),
            max(decision.predicted_s, decision.expected_s) or math.inf,
        )
        self._workers.start(job, lambda result: self._finish(running, result))

    def _finish(self, running: Running, result: JobResult) -> None:
        now = self._clock()
        self._running.remove(running)
        hosted, entries = running.hosted, running.entries
        on_time = sum([now <= entry.due_s for entry in entries])
        hosted.intake.answered(on_time)
        if not result.retried:
            late = len(entries) - on_time
            predicted_s = running.decision.predicted_s
            self._policy.on_batch_done(
                BatchDone(hosted.key, running.rows, predicted_s, result.compute_s, now, on_time, late)
            )
            cost = BatchCost(len(entries), running.rows, result.input_s, result.compute_s, result.output_s)
            hosted.metrics.count_batch(cost)
        elif result.worker_died:
            hosted.metrics.count_worker_death()
        self._fill_workers()  # the worker gets its next batch before this one's clients get their answers
        self._answer(running, result, now)
        if result.ended_s is not None:  # the tasks that write the answers are scheduled: this comes after them
            ended_s = result.ended_s
            asyncio.get_running_loop().call_soon(lambda: self.reply.observe(self._clock() - ended_s))

    def _answer(self, running: Running, result: JobResult, now: float) -> None:
        hosted = running.hosted
        served: list[Served] = []
        for entry, answer in zip(running.entries, result.answers, strict=True):
            if entry.future.done():  # cancelled while it ran: the answer is thrown away
                hosted.metrics.count_cancelled(entry.label)
                reports = answer.reports if isinstance(answer, Answer) else ()
                entry.close(sum(report.macs for report in reports))
            elif isinstance(answer, Answer):
                completion = _completion(entry, answer, running, result.compute_s, now)
                entry.answer(completion)
                hosted.last_reports = answer.reports
                served.append(_served(entry, completion, now))
            else:
                hosted.metrics.count_error(entry.label)
                entry.fail(answer)
        if served:
            hosted.metrics.count_served(served)


def _completion(entry: Entry, answer: Answer, running: Running, compute_s: float, now: float) -> Completion:
    hosted = running.hosted
    return Completion(
        outputs=answer.outputs,
        reports=answer.reports,
        budget=entry.budget,
        limited_by=hosted.limited_by(entry, running.decision),
        quality_expected=hosted.quality_at(entry.budget),
        queue_s=entry.dispatched_s - entry.work.arrival_s,
        compute_s=compute_s,
        batch_size=running.rows,
        deadline_met=now <= entry.due_s,
    )


def _served(entry: Entry, completion: Completion, now: float) -> Served:
    return Served(
        priority=entry.label,
        queue_s=completion.queue_s,
        total_s=now - entry.work.arrival_s,
        on_time=completion.deadline_met,
        budget=completion.budget,
        activity=completion.activity,
        macs=completion.macs,
        macs_dense=completion.macs_dense,
        quality_expected=completion.quality_expected,
        cap_hits=sum(report.cap_hits for report in completion.reports),
    )
