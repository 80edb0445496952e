"""DrainFeasible: the budget law that the service runs."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from service.control.admission import RetrySlots
from service.control.drain import Lane, Machine, head_batch, longest_batch_s, plan_backlog
from service.control.edf import edf_order, kind
from service.control.profile import Slowdown
from service.control.shedding import shed_to_feasible
from service.control.types import (
    ADMITTED,
    LOW,
    Admission,
    BatchDone,
    Decision,
    Limit,
    ModelPlan,
    ModelState,
    QueuedItem,
    ReplicaView,
    Shed,
    ShedReason,
)

RATE_WINDOW_S = 0.2


@dataclass(frozen=True, slots=True)
class LawSettings:
    """Constants of the law. margin_sigmas: z; guard_ratio: share of a deadline left for what the profile does not see.

    rise_limit: largest rise of the budget per dispatch; it falls at once. max_queue: items per model.
    """

    margin_sigmas: float = 3.0
    guard_ratio: float = 0.1
    rise_limit: float = 0.15
    max_queue: int = 10_000
    cold_service_ratio: float = 1.3


@dataclass(frozen=True, slots=True)
class Rails:
    """Hard limits of the common budget, set by the operator."""

    minimum: float = 0.0
    maximum: float = 1.0

    def clip(self, budget: float) -> float:
        return min(max(budget, self.minimum), self.maximum)


class Track:
    """What the law remembers of one model: plan, slowdown, arrival rate (rows per second)."""

    def __init__(self, plan: ModelPlan, slowdown: Slowdown) -> None:
        self.plan = plan
        self.slowdown = slowdown
        self._rate = 0.0
        self._rate_at_s = -math.inf

    def count_arrival(self, now_s: float, rows: int) -> None:
        self._rate = self.arrival_rate(now_s) + rows / RATE_WINDOW_S
        self._rate_at_s = now_s

    def arrival_rate(self, now_s: float) -> float:
        """Rows per second, exponentially weighted over RATE_WINDOW_S."""
        return self._rate * math.exp(min(0.0, self._rate_at_s - now_s) / RATE_WINDOW_S)


class DrainFeasible:
    """The largest common budget at which everything queued is predicted on time.

    Every dispatch takes the head of the most urgent queue, at the largest budget at which the joint backlog of all
    models drains before its deadlines, service times scaled by the measured slowdown plus `margin_sigmas` sigmas.
    """

    def __init__(self, plans: Iterable[ModelPlan] = (), settings: LawSettings | None = None) -> None:
        self.settings = settings or LawSettings()
        self.rails = Rails()
        self.budget = 1.0
        self._tracks: dict[str, Track] = {}
        self._slots = RetrySlots()
        self._now_s = 0.0
        for plan in plans:
            self.set_model(plan)

    def set_model(self, plan: ModelPlan) -> None:
        self._tracks[plan.name] = Track(plan, Slowdown(self.settings.cold_service_ratio))

    def remove_model(self, name: str) -> None:
        self._tracks.pop(name, None)

    def state(self, model: str) -> ModelState:
        track = self._tracks[model]
        low, high = self._bounds(track.plan)
        budget = min(max(self.budget, low), high)
        return ModelState(budget, track.slowdown.kappa, track.slowdown.sigma, track.arrival_rate(self._now_s))

    def on_batch_done(self, done: BatchDone) -> None:
        track = self._tracks.get(done.model)
        if track is not None:
            track.slowdown.update(done.predicted_s, done.actual_s)

    def admit(self, view: ReplicaView, item: QueuedItem) -> Admission:
        self._now_s = view.now_s
        track = self._tracks[item.model]
        track.count_arrival(view.now_s, item.rows)
        queue = view.queues.get(item.model)
        if queue is not None and len(queue) >= self.settings.max_queue:
            return self._refuse(view, item, self._lateness(view, item), ShedReason.QUEUE_FULL)
        if item.floor > self._bounds(track.plan)[1] or not math.isfinite(item.deadline_s):
            return self._refuse(view, item, 0.0, ShedReason.FLOOR)
        if item.best_effort:
            return ADMITTED
        late = self._lateness(view, item)
        if late <= 0.0:
            return ADMITTED
        if item.priority < LOW and self._lateness(view, item, item.priority) <= 0.0:
            evicted = self._room_for(view, item)
            if item not in evicted:
                return Admission(ok=True, evicted=tuple(evicted))
        would_fit = item.floor > track.plan.min_budget and self._lateness(view, replace(item, floor=0.0)) <= 0.0
        return self._refuse(view, item, late, ShedReason.FLOOR if would_fit else ShedReason.ADMISSION)

    def decide(self, view: ReplicaView) -> Decision | None:
        self._now_s = view.now_s
        lanes = [self._lane(name, queue.items, queue.alike) for name, queue in view.queues.items() if queue]
        if not lanes:
            return None
        machine = _machine(view)
        budget = self._feasible_budget(lanes, machine)
        if budget is None:
            return self._overloaded(lanes, machine)
        self.budget = budget
        return self._dispatch(lanes, budget)

    def _bounds(self, plan: ModelPlan) -> tuple[float, float]:
        """Lowest and highest common budget of a model now: its table within the operator's rails."""
        high = max(plan.min_budget, min(plan.max_budget, self.rails.maximum))
        return min(max(plan.min_budget, self.rails.minimum), high), high

    def _lane(self, model: str, items: Sequence[QueuedItem], alike: bool) -> Lane:
        track, settings = self._tracks[model], self.settings
        plan, slowdown = track.plan, track.slowdown
        low, high = self._bounds(plan)
        head = items[0]
        return Lane(
            model=model,
            items=items,
            batch=min(plan.max_batch, len(items) if alike else sum([item.rows for item in items[: plan.max_batch]])),
            profile=plan.profile,
            margin=slowdown.kappa + settings.margin_sigmas * slowdown.sigma,
            low=low,
            high=high,
            guard_s=settings.guard_ratio * min(plan.default_deadline_s, head.deadline_s - head.arrival_s),
            alike=alike,
        )

    def _feasible_budget(self, lanes: Sequence[Lane], machine: Machine) -> float | None:
        """The largest common budget, at most `rise_limit` above the last one; None if the floors are too slow."""
        low, high = min([lane.low for lane in lanes]), max([lane.high for lane in lanes])
        high = max(low, min(high, self.budget + self.settings.rise_limit))
        if len(lanes) > 1 or not lanes[0].alike:
            return plan_backlog(lanes).largest_budget(low, high, machine)
        (lane,) = lanes
        machine = replace(machine, now_s=machine.now_s + lane.guard_s)
        longest = longest_batch_s(lane.items, lane.batch, machine) / lane.margin
        if longest < lane.profile.seconds(lane.bounds(lane.items[0])[0], lane.batch):
            return None
        return min(high, max(low, lane.profile.budget_for(longest, lane.batch)))

    def _overloaded(self, lanes: Sequence[Lane], machine: Machine) -> Decision:
        """Run at the floor; drop what cannot be on time there, by the expected times without their margin."""
        self.budget = min([lane.low for lane in lanes])
        expected = [replace(lane, margin=self._tracks[lane.model].slowdown.kappa, guard_s=0.0) for lane in lanes]
        dropped = shed_to_feasible(expected, machine)
        gone = {item.sequence for item in dropped}
        rest = [
            replace(lane, items=items)
            for lane in lanes
            if (items := [item for item in lane.items if item.sequence not in gone])
        ]
        decision = self._dispatch(rest, self.budget) if rest else Decision(lanes[0].model, (), self.budget)
        sheds = tuple([Shed(item, _reason(item, self._tracks[item.model])) for item in dropped if not item.best_effort])
        deferred = tuple([self._defer(item) for item in dropped if item.best_effort])
        return replace(decision, sheds=sheds, deferred=deferred, limit=Limit.LOAD, at_floor=True)

    def _defer(self, item: QueuedItem) -> QueuedItem:
        """A best-effort request that will be late queues anew, one default deadline from now: late, but not never."""
        return replace(item, deadline_s=self._now_s + self._tracks[item.model].plan.default_deadline_s)

    def _dispatch(self, lanes: Sequence[Lane], budget: float) -> Decision:
        lane = lanes[0] if len(lanes) == 1 else min(lanes, key=_urgency)
        batch = head_batch(lane.items, lane.batch)
        common = min(max(budget, lane.low), lane.high)
        rows = sum([item.rows for item in batch])
        mean = sum([item.rows * item.clip(common) for item in batch]) / rows
        predicted = lane.profile.seconds(mean, rows)
        track = self._tracks[lane.model]
        operator = lane.high < track.plan.max_budget and common >= lane.high
        full = common >= track.plan.max_budget
        limit = Limit.NONE if full else Limit.OPERATOR if operator else Limit.LOAD
        return Decision(lane.model, batch, common, predicted, predicted * track.slowdown.kappa, limit=limit)

    def _lateness(self, view: ReplicaView, item: QueuedItem, worst_class: int = LOW) -> float:
        """Lateness of the backlog at the floors with `item` in it, classes below `worst_class` left out; seconds."""
        lanes = []
        for name, queue in view.queues.items():
            items = [other for other in queue.items if other.priority <= worst_class]
            alike = queue.alike
            if name == item.model:
                insort(items, item, key=edf_order)
                alike = not queue or (alike and kind(item) == kind(queue.items[0]))
            if items:
                lanes.append(replace(self._lane(name, items, alike and items[0].rows == 1), guard_s=0.0))
        return plan_backlog(lanes).lateness(min([lane.low for lane in lanes]), _machine(view))

    def _room_for(self, view: ReplicaView, item: QueuedItem) -> list[QueuedItem]:
        lanes = [
            replace(self._lane(name, items, alike=False), guard_s=0.0)
            for name, queue in view.queues.items()
            if (items := sorted([*queue.items, *([item] if name == item.model else [])], key=edf_order))
        ]
        return shed_to_feasible(lanes, _machine(view))

    def _refuse(self, view: ReplicaView, item: QueuedItem, late_s: float, reason: ShedReason) -> Admission:
        plan = self._tracks[item.model].plan
        per_row = plan.profile.seconds(plan.min_budget, plan.max_batch) / plan.max_batch
        retry = self._slots.reserve(view.now_s, late_s, per_row * item.rows / view.workers)
        return Admission(ok=False, retry_after_s=retry, reason=reason)


def _machine(view: ReplicaView) -> Machine:
    residual = sum([max(0.0, end - view.now_s) for end in view.busy_until_s])
    return Machine(view.now_s, residual, view.workers)


def _urgency(lane: Lane) -> float:
    return lane.items[0].deadline_s


def _reason(item: QueuedItem, track: Track) -> ShedReason:
    return ShedReason.FLOOR if item.floor > track.plan.min_budget else ShedReason.DEADLINE
