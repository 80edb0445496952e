"""The scheduler of one replica: earliest deadline first, batches formed at dispatch, one worker thread per core.

All state lives on the event loop; workers only see a Job and hand back a JobResult. No batching delay: a request is
dispatched as soon as a worker is free, together with whatever else is queued then.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from models.interface import ServableModel
from service.control.governor import Governor
from service.control.profile import ServiceProfile
from service.control.set_points import Mode, SetPoints
from service.control.shadow import Verdict
from service.control.types import Policy, QueuedItem, ShedReason
from service.errors import NotFound, Overloaded, Unavailable
from service.scheduling.demand import DemandReport
from service.scheduling.dispatcher import Dispatcher
from service.scheduling.gauges import GaugePublisher
from service.scheduling.hosted import Entry, HostedModel, model_key, priority_label
from service.scheduling.intake import Intake
from service.scheduling.waiting import WaitingRoom
from service.scheduling.worker import Workers
from service.telemetry.metrics import Metrics
from service.telemetry.model_metrics import ModelMetrics
from service.types import Completion, Haste, Work

log = logging.getLogger(__name__)

DRAINING = "draining"
NORMAL_PRIORITY = priority_label(0)
MIN_RETRY_S = 0.1  # nobody is told to come back at once


@dataclass(frozen=True, slots=True)
class Limits:
    """max_queue: requests waiting in one replica. stall_s: a batch that runs longer makes the replica unhealthy."""

    max_queue: int = 4096
    stall_s: float = 60.0


class ComputeQuota(Protocol):
    """Tenants pay for MACs, not for requests: `service.control.quota.MacBuckets`."""

    def admit(self, tenant: str, expected_macs: float, now_s: float) -> float:
        """Charge and return 0.0, or charge nothing and return the seconds after which to come back."""

    def settle(self, tenant: str, expected_macs: float, actual_macs: float, now_s: float) -> None:
        """Correct the charge by what was counted; 0 for a request that was dropped before it ran."""


class Scheduler:
    """Call everything on one event loop. clock: monotonic seconds, the clock of Work.arrival_s.

    quota: who may spend how much compute; None = nobody is limited.
    """

    def __init__(
        self,
        policy: Policy,
        workers: Workers,
        metrics: Metrics,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        quota: ComputeQuota | None = None,
    ) -> None:
        self._policy = Governor(policy, self._count_verdict)
        self._workers = workers
        self._metrics = metrics
        self._limits = limits or Limits()
        self._clock = clock
        self._models: dict[str, HostedModel] = {}
        self._replaced: list[HostedModel] = []  # by a reload; batches may still run on them
        self._waiting = WaitingRoom(clock)
        self._dispatcher = Dispatcher(self._policy, workers, self._waiting, self._models, clock)
        self._gauges = GaugePublisher(self._policy, self._models, workers.num_workers)
        self._quota = quota
        self.demand = DemandReport(self._policy, self._models, workers.num_workers, clock)
        self._set_points = SetPoints()
        self._sequence = 0
        self._flooded_until_s = -math.inf
        self._draining = False

    def add_model(self, model: ServableModel, profile: ServiceProfile, adaptive: bool = True) -> None:
        """Make a warmed-up model available. It replaces one of the same name and version, with what waits there.

        adaptive: False keeps it at its highest budget, for a profile that cannot be trusted.
        """
        spec = model.spec
        hosted = HostedModel(model, profile, ModelMetrics(self._metrics, spec.name, spec.version), Intake(self._clock))
        hosted.adaptive = adaptive
        hosted.obey(self._set_points)
        replaced = self._models.get(hosted.key)
        self._models[hosted.key] = hosted
        self._policy.set_model(hosted.plan())
        if replaced is not None:
            self._waiting.move(replaced, hosted)
            self._replaced.append(replaced)

    async def remove_model(self, model: ServableModel) -> None:
        """Refuse new requests for this very model, let the others finish, forget it. An unknown one is ignored."""
        known = [hosted for hosted in (*self._models.values(), *self._replaced) if hosted.model is model]
        for hosted in known:
            hosted.closing = True
            await hosted.empty.wait()
            if self._models.get(hosted.key) is hosted:
                del self._models[hosted.key]
                self._policy.remove_model(hosted.key)
            hosted.metrics.set_pending(0)
            hosted.metrics.publish()
            self._replaced = [other for other in self._replaced if other is not hosted]

    def apply_setpoint(self, set_points: SetPoints) -> None:
        """Obey an operator from the next dispatch on. What waits already keeps the bounds it was admitted with."""
        self._set_points = set_points
        self._policy.shadow(set_points.mode is Mode.SHADOW)
        for hosted in self._models.values():
            hosted.obey(set_points)
            self._policy.set_model(hosted.plan())

    @property
    def set_points(self) -> SetPoints:
        return self._set_points

    def publish_metrics(self) -> None:
        """Bring the registry up to date now; it otherwise happens a few times a second."""
        self._gauges.publish()

    @property
    def num_pending(self) -> int:
        """Requests queued or computing."""
        return sum(hosted.num_pending for hosted in (*self._models.values(), *self._replaced))

    def healthy(self) -> bool:
        """False when a batch has been on its worker for longer than any batch should: a stuck native call."""
        now = self._clock()
        return all(now - running.started_s < self._limits.stall_s for running in self._dispatcher.running)

    async def drain(self) -> None:
        """Refuse new requests and wait until the accepted ones are answered."""
        self._draining = True
        for hosted in [*self._models.values(), *self._replaced]:
            await hosted.empty.wait()

    def close(self) -> None:
        """Stop at once: waiting requests are answered Unavailable, threads end after their batch."""
        self._draining = True
        for entry in self._waiting:
            self._waiting.drop(entry, Unavailable("the server is stopping", reason=DRAINING), DRAINING)
        self._waiting.close()
        self._gauges.publish()
        self._gauges.close()
        self._workers.close()

    async def submit(self, work: Work) -> Completion:
        """Queue, compute and answer one request.

        Raises NotFound, Overloaded (with reason and retry_after_s), DeadlineExceeded, InvalidRequest, ModelFailed, and
        CancelledError if the awaiting task is cancelled: the request then leaves the queue at once.
        """
        entry = self._accept(work)
        try:
            return await entry.future
        except asyncio.CancelledError:
            self._waiting.cancel(entry)
            raise

    @property
    def flooded(self) -> bool:
        """Whether the load of some model was refused just now."""
        return self._clock() < self._flooded_until_s

    def takes(self, name: str, version: str, haste: Haste) -> bool:
        """Whether one more request is worth reading, see `intake`. One that is takes its place.

        In a flood one that the admission test would refuse whatever waits before it takes none.
        """
        hosted = self._hosted(name, version)
        timeout_s = hosted.timeout_s(haste.timeout_s)
        delay_s = self._dispatcher.delay_s(timeout_s) if hosted.intake.flooded else 0.0
        if haste.age_s + delay_s < timeout_s and hosted.intake.takes(timeout_s, hosted.num_pending == 0):
            return True
        hosted.metrics.count_shed(NORMAL_PRIORITY, ShedReason.SURPLUS)
        return False

    def count_shed(self, name: str, version: str, reason: str) -> None:
        """A request of unknown priority was refused because more arrive than the loop can read: a flood."""
        hosted = self._hosted(name, version)
        hosted.metrics.count_shed(NORMAL_PRIORITY, reason)
        self._flood(hosted, hosted.default_deadline_s)
        self._gauges.touch()

    def _accept(self, work: Work) -> Entry:
        hosted = self._hosted(work.model, work.version)
        self._sequence += 1
        try:
            if self._draining or self._set_points.draining or hosted.closing:
                raise Unavailable("the model takes no requests now", reason=DRAINING)
            item = hosted.item(work, self._sequence, self._dispatcher.reply)
            settle = self._charge(hosted, item, work.contract.tenant) if self._quota else None
            try:
                self._admit(item, hosted, work)
            except Overloaded:
                if settle is not None:
                    settle(0.0)
                raise
        except Overloaded as refusal:
            hosted.metrics.count_shed(priority_label(work.contract.priority), refusal.reason)
            raise
        future = asyncio.get_running_loop().create_future()
        entry = Entry(work, item, hosted, future, item.deadline_s, settle=settle)
        hosted.enter()
        self._waiting.add(entry)
        self._dispatcher.wake()
        self._gauges.touch()
        return entry

    def _charge(self, hosted: HostedModel, item: QueuedItem, tenant: str) -> Callable[[float], None]:
        """Charge the tenant what the request will probably cost; the result corrects that by what it did cost."""
        quota, expected = self._quota, hosted.expected_macs(item)
        assert quota is not None
        retry_after_s = quota.admit(tenant, expected, self._clock())
        if retry_after_s > 0.0:
            raise Overloaded("the compute quota is used up", max(MIN_RETRY_S, retry_after_s), ShedReason.QUOTA)
        return lambda spent: quota.settle(tenant, expected, spent, self._clock())

    def _admit(self, item: QueuedItem, hosted: HostedModel, work: Work) -> None:
        if len(self._waiting) >= self._limits.max_queue:
            rate = max(self._policy.state(item.model).arrival_rate, 1.0)
            retry_after_s = min(30.0, max(1.0, len(self._waiting) / rate))
            self._flood(hosted, hosted.timeout_s(work.contract.timeout_s))
            raise Overloaded("the queue is full", retry_after_s, ShedReason.QUEUE_FULL)
        admission = self._policy.admit(self._dispatcher.view(), item)
        if not admission.ok:
            reason = admission.reason or ShedReason.ADMISSION
            retry_after_s = max(MIN_RETRY_S, admission.retry_after_s)
            if admission.by_load:
                self._flood(hosted, hosted.timeout_s(work.contract.timeout_s))
            raise Overloaded("the deadline cannot be met now", retry_after_s, reason)
        for evicted in admission.evicted:
            self._waiting.shed(evicted, ShedReason.EVICTED)

    def _flood(self, hosted: HostedModel, timeout_s: float) -> None:
        """More is asked for than can be answered: until that ends, the surplus should be refused unread."""
        hosted.intake.refused(timeout_s)
        self._flooded_until_s = max(self._flooded_until_s, hosted.intake.until_s)

    def _count_verdict(self, model: str, verdict: Verdict) -> None:
        if model in self._models:
            self._models[model].metrics.count_verdict(verdict)

    def _hosted(self, name: str, version: str) -> HostedModel:
        hosted = self._models.get(model_key(name, version))
        if hosted is None:
            raise NotFound(f"no model {name} version {version} is scheduled")
        return hosted
