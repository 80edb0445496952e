"""HostedModel: what the scheduler keeps for one model version; Entry: what it keeps for one request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from models.interface import ServableModel
from service.control.edf import EdfQueue
from service.control.profile import ServiceProfile
from service.control.set_points import Mode, SetPoints
from service.control.types import Decision, Limit, ModelPlan, QueuedItem, ShedReason, priority_class
from service.errors import Overloaded, ServiceError
from service.scheduling.intake import Intake
from service.scheduling.reply import ReplyDelay
from service.telemetry.model_metrics import ModelMetrics
from service.types import Completion, DeadlinePolicy, LimitedBy, Quality, Work
from swan_runtime.budget import BudgetPoint
from swan_runtime.report import ComputeReport

REMEMBERED_BUDGETS = 1024
PRIORITY_LABELS = ("high", "normal", "low")  # by the class of the control law


def model_key(name: str, version: str) -> str:
    """One string for a model version, as the control law knows it."""
    return f"{name}@{version}"


def priority_label(priority: int) -> str:
    """high, normal or low: the metrics' label for a request's `priority`, however many classes clients invent."""
    return PRIORITY_LABELS[priority_class(priority)]


@dataclass(slots=True, eq=False)
class Entry:
    """One request between submit and its answer."""

    work: Work
    item: QueuedItem
    hosted: HostedModel
    future: asyncio.Future[Completion]
    due_s: float  # the client's deadline; item.deadline_s may be a later one that the policy plans with
    dispatched_s: float = 0.0
    budget: float = 1.0
    settle: Callable[[float], None] | None = None  # told the MACs that were spent, where tenants pay for them

    @property
    def label(self) -> str:
        return PRIORITY_LABELS[self.item.priority]

    def answer(self, completion: Completion) -> None:
        self.future.set_result(completion)
        self.close(completion.macs if self.settle else 0.0)

    def fail(self, error: ServiceError) -> None:
        if not self.future.done():
            self.future.set_exception(error)
        self.close()

    def close(self, spent_macs: float = 0.0) -> None:
        """The request has ended, in whichever way."""
        self.hosted.leave()
        if self.settle is not None:
            self.settle(spent_macs)


class HostedModel:
    """A loaded model with its queue, its plan for the control law and its counters."""

    def __init__(self, model: ServableModel, profile: ServiceProfile, metrics: ModelMetrics, intake: Intake) -> None:
        self.model = model
        self.intake = intake
        self.key = model_key(model.spec.name, model.spec.version)
        self.profile = profile
        self.metrics = metrics
        self.queue = EdfQueue()
        self.num_pending = 0
        self.closing = False
        self.empty = asyncio.Event()
        self.empty.set()
        table = model.table
        self.lowest, self.highest = (table.floor, table.budgets[-1]) if table else (1.0, 1.0)
        self.last_budget = self.highest
        self.decided_budget = self.highest
        self.last_reports: tuple[ComputeReport, ...] = ()
        self._frozen_at = self.highest
        self._points: dict[float, BudgetPoint] = {}
        self.adaptive = True
        self.mode = Mode.AUTO
        self.obey(SetPoints())

    @property
    def default_deadline_s(self) -> float:
        return self.model.spec.default_deadline_s

    def timeout_s(self, wanted_s: float | None) -> float:
        """How long a request may take that asks for that."""
        return self.default_deadline_s if wanted_s is None else wanted_s

    def enter(self) -> None:
        self.num_pending += 1
        self.empty.clear()

    def leave(self) -> None:
        self.num_pending -= 1
        if self.num_pending == 0:
            self.empty.set()

    def obey(self, set_points: SetPoints) -> None:
        """The operator's word, in force from the next dispatch on. Freeze holds the budget of the last dispatch."""
        if set_points.mode is Mode.FREEZE and self.mode is not Mode.FREEZE:
            self._frozen_at = self.last_budget
        self.mode = set_points.mode
        self.rail_low = self.served(set_points.min_budget)
        self.rail_high = max(self.rail_low, self.served(set_points.max_budget))
        self.low, self.high = self.rail_low, self.rail_high
        held = {Mode.MANUAL: set_points.budget, Mode.FREEZE: self._frozen_at}
        if self.mode in held or not self.adaptive:
            budget = held.get(self.mode, self.rail_high)
            self.low = self.high = min(max(self.served(budget), self.rail_low), self.rail_high)

    def plan(self) -> ModelPlan:
        max_batch = max(1, self.model.spec.max_batch_size)
        return ModelPlan(self.key, self.profile, self.default_deadline_s, max_batch, self.low, self.high)

    def item(self, work: Work, sequence: int, reply: ReplyDelay) -> QueuedItem:
        """The request as the control law sees it: due early enough for its answer to be written in time.

        Raises Overloaded if the operator forbids what it insists on.
        """
        contract = work.contract
        floor, ceiling = self._bounds(contract.quality, contract.deadline_policy)
        timeout_s = self.timeout_s(contract.timeout_s)
        return QueuedItem(
            model=self.key,
            deadline_s=work.arrival_s + timeout_s - reply.of(timeout_s),
            arrival_s=work.arrival_s,
            sequence=sequence,
            rows=work.rows,
            floor=floor,
            ceiling=ceiling,
            priority=priority_class(contract.priority),
            group=shape_group(work),
            best_effort=contract.deadline_policy is DeadlinePolicy.BEST_EFFORT,
        )

    def _bounds(self, quality: Quality, policy: DeadlinePolicy) -> tuple[float, float]:
        """Lowest and highest budget to answer at, resolved to what the calibration serves and the rails allow."""
        if quality.minimum <= self.rail_low and quality.maximum >= self.rail_high and policy is DeadlinePolicy.DEGRADE:
            return self.rail_low, self.rail_high  # nearly all requests
        floor, ceiling = self.served(quality.minimum), self.served(quality.maximum)
        if floor > self.rail_high:
            raise Overloaded(
                f"a quality of {floor:g} is not available: the operator's maximum is {self.rail_high:g}",
                retry_after_s=30.0,
                reason=ShedReason.FLOOR,
            )
        ceiling = min(max(ceiling, self.rail_low), self.rail_high)
        if policy is DeadlinePolicy.REJECT:
            return ceiling, ceiling
        return min(max(floor, self.rail_low), ceiling), ceiling

    def limited_by(self, entry: Entry, decision: Decision) -> LimitedBy:
        """Why the budget of an answer is below the most that the model can do."""
        budget = entry.budget
        if budget >= self.highest:
            return LimitedBy.NONE
        if budget >= self.served(entry.work.contract.quality.maximum):
            return LimitedBy.REQUEST
        if decision.limit is Limit.OPERATOR or self.low == self.high or budget >= entry.item.ceiling:
            return LimitedBy.OPERATOR
        return LimitedBy.LOAD

    def served(self, budget: float) -> float:
        """`budget` resolved to what the calibration serves."""
        return min(max(budget, self.lowest), self.highest)

    def quality_at(self, budget: float) -> float | None:
        """Expected quality from the calibration table; None for a model without one."""
        point = self._point(budget)
        return point.quality if point else None

    def threshold_at(self, budget: float) -> float:
        """The first gated layer's score threshold at `budget`; 0 for a model without gates."""
        point = self._point(budget)
        return next(iter(point.thresholds.values()), 0.0) if point else 0.0

    def expected_macs(self, item: QueuedItem) -> float:
        """What the request will probably cost, at the budget of the last dispatch."""
        point = self._point(self.served(item.clip(self.last_budget)))
        if point is not None:
            return point.macs_mean * item.rows
        return float(sum(report.macs for report in self.last_reports[:1]) * item.rows)

    def _point(self, budget: float) -> BudgetPoint | None:
        if self.model.table is None:
            return None
        found = self._points.get(budget)
        if found is None:
            if len(self._points) >= REMEMBERED_BUDGETS:
                self._points.clear()
            found = self._points[budget] = self.model.table.at(budget)
        return found


def shape_group(work: Work) -> object:
    """What must be equal for requests to share a batch: names, datatypes and shapes without the batch dimension."""
    inputs = work.inputs
    if len(inputs) == 1:
        ((name, array),) = inputs.items()
        return name, array.dtype, array.shape[1:]
    return tuple([(name, array.dtype, array.shape[1:]) for name, array in sorted(inputs.items())])
