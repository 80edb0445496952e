"""The event loop: arrivals, decisions, completions on a virtual clock, with the shipped queue and policy classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random

from service.control.edf import EdfQueue
from service.control.types import BatchDone, Decision, Policy, QueuedItem, ReplicaView
from service.simulator.plant import Plant
from service.simulator.workload import Request, Workload


@dataclass(frozen=True, slots=True)
class Served:
    """One answered request."""

    arrival_s: float
    deadline_s: float
    finish_s: float
    budget: float
    activity: float
    quality: float
    priority: int
    pinned: bool

    @property
    def on_time(self) -> bool:
        return self.finish_s <= self.deadline_s


@dataclass(frozen=True, slots=True)
class Refused:
    """One request answered without work, at arrival (admission) or from the queue."""

    arrival_s: float
    deadline_s: float
    refused_s: float
    reason: str
    priority: int


@dataclass(slots=True)
class Run:
    """Everything that happened. decisions: (time, model, common budget, rows, queued)."""

    workload: Workload
    served: list[Served] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    decisions: list[tuple[float, str, float, int, int]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    retried: int = 0


class Simulator:
    """One replica: `workers` workers, the shipped EDF queues, one policy. max_retries: of a refused client."""

    def __init__(
        self, plants: Sequence[Plant], policy: Policy, workers: int = 1, seed: int = 0, max_retries: int = 0
    ) -> None:
        self.plants: Mapping[str, Plant] = {plant.plan.name: plant for plant in plants}
        self.policy = policy
        self.workers = workers
        self.max_retries = max_retries
        self._rng = Random(seed)
        self._queues = {name: EdfQueue() for name in self.plants}
        self._requests: dict[int, tuple[Request, int]] = {}
        self._running: list[tuple[float, int, float, Decision, float]] = []
        self._again: list[tuple[float, int, Request, int]] = []
        self._sequence = 0

    def run(self, workload: Workload) -> Run:
        """Play a workload to its end and drain the queues."""
        run = Run(workload)
        position, requests = 0, workload.requests
        while position < len(requests) or self._running or self._again:
            arrival = requests[position].arrival_s if position < len(requests) else float("inf")
            again = self._again[0][0] if self._again else float("inf")
            done = self._running[0][0] if self._running else float("inf")
            now = min(arrival, again, done)
            if done == now:
                self._finish(run)
            elif arrival == now:
                self._arrive(run, requests[position], now, 0)
                position += 1
            else:
                _, _, request, tries = heappop(self._again)
                self._arrive(run, request, now, tries)
            while len(self._running) < self.workers and self._dispatch(run, now):
                pass
        return run

    def _view(self, now: float) -> ReplicaView:
        return ReplicaView(now, self._queues, [entry[2] for entry in self._running], self.workers)

    def _arrive(self, run: Run, request: Request, now: float, tries: int) -> None:
        self._sequence += 1
        low = self.plants[request.model].plan.min_budget
        item = QueuedItem(
            request.model,
            now + request.timeout_s,
            now,
            self._sequence,
            floor=max(low, request.floor),
            ceiling=max(low, request.ceiling),
            priority=request.priority,
            best_effort=request.best_effort,
        )
        self._requests[item.sequence] = (request, tries)
        admission = self.policy.admit(self._view(now), item)
        for victim in admission.evicted:
            self._queues[victim.model].remove(victim)
            self._refuse(run, victim, now, "evicted")
        if admission.ok:
            self._queues[item.model].add(item)
        else:
            self._refuse(run, item, now, str(admission.reason), admission.retry_after_s)

    def _refuse(self, run: Run, item: QueuedItem, now: float, reason: str, retry_after_s: float = 0.0) -> None:
        request, tries = self._requests.pop(item.sequence)
        if tries < self.max_retries:
            self._sequence += 1
            run.retried += 1
            heappush(self._again, (now + max(retry_after_s, 1e-4), self._sequence, request, tries + 1))
            return
        run.refused.append(Refused(item.arrival_s, item.deadline_s, now, reason, item.priority))
        run.reasons[reason] += 1

    def _dispatch(self, run: Run, now: float) -> bool:
        """Start one batch; False when nothing is queued."""
        queued = sum(map(len, self._queues.values()))
        decision = self.policy.decide(self._view(now)) if queued else None
        if decision is None:
            return False
        for shed in decision.sheds:
            self._queues[shed.item.model].remove(shed.item)
            self._refuse(run, shed.item, now, str(shed.reason))
        for item in decision.deferred:
            old = next(o for o in self._queues[item.model] if o.sequence == item.sequence)
            self._queues[item.model].remove(old)
            self._queues[item.model].add(item)
        if not decision.batch:
            return True
        self._queues[decision.model].take(decision.batch)
        self._start(run, decision, now, queued)
        return True

    def _start(self, run: Run, decision: Decision, now: float, queued: int) -> None:
        budgets = [item.clip(decision.budget) for item in decision.batch]
        intensities = [self._requests[item.sequence][0].intensity for item in decision.batch]
        slow = run.workload.slowdowns.at(now)
        seconds = self.plants[decision.model].seconds(budgets, intensities, slow, self._rng)
        run.decisions.append((now, decision.model, decision.budget, len(budgets), queued))
        self._sequence += 1
        heappush(self._running, (now + seconds, self._sequence, now + decision.expected_s, decision, now))

    def _finish(self, run: Run) -> None:
        finish, _, _, decision, start = heappop(self._running)
        plant = self.plants[decision.model]
        on_time = 0
        for item in decision.batch:
            request, _ = self._requests.pop(item.sequence)
            budget = item.clip(decision.budget)
            deadline = request.arrival_s + request.timeout_s if not self.max_retries else item.deadline_s
            on_time += finish <= deadline
            run.served.append(
                Served(
                    item.arrival_s,
                    deadline,
                    finish,
                    budget,
                    min(1.0, budget * request.intensity),
                    plant.quality(budget),
                    item.priority,
                    item.floor == item.ceiling,
                )
            )
        rows = len(decision.batch)
        done = BatchDone(decision.model, rows, decision.predicted_s, finish - start, finish, on_time, rows - on_time)
        self.policy.on_batch_done(done)
