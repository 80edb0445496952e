"""DrainFeasible: the budget law that the service runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from service.control.admission import RetrySlots
from service.control.backlog import plan_backlog
from service.control.drain import HeadPlan, plan_head
from service.control.easy import at_once, fits
from service.control.edf import EdfQueue
from service.control.kinds import Kinds
from service.control.lane import Lane, Machine, head_batch, urgency
from service.control.profile import Slowdown
from service.control.shedding import shed_to_feasible
from service.control.track import LawSettings, Track
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

WATCHDOG_S = 1.0
CLIPPED_BATCHES = 20


class DrainFeasible:
    """The largest common budget at which everything queued is predicted on time.

    Every dispatch takes the head of the most urgent queue, at the largest budget at which the joint backlog of all
    models drains before its deadlines, service times scaled by the measured slowdown plus `margin_sigmas` sigmas.
    """

    def __init__(self, plans: Iterable[ModelPlan] = (), settings: LawSettings | None = None) -> None:
        self.settings = settings or LawSettings()
        self.budget = 1.0
        self._tracks: dict[str, Track] = {}
        self._slots = RetrySlots()
        self._now_s = 0.0
        self._decided_s = 0.0
        self._refused_s = -math.inf
        for plan in plans:
            self.set_model(plan)

    def set_model(self, plan: ModelPlan) -> None:
        """A plan with the profile known so far, as after a change of the operator's limits, keeps what was learnt."""
        known = self._tracks.get(plan.name)
        if known is not None and known.plan.profile is plan.profile:
            known.plan = plan
        else:
            self._tracks[plan.name] = Track(plan, Slowdown(self.settings.cold_service_ratio))

    def remove_model(self, name: str) -> None:
        self._tracks.pop(name, None)

    def state(self, model: str, now_s: float | None = None) -> ModelState:
        track = self._tracks[model]
        budget = min(max(self.budget, track.plan.min_budget), track.plan.max_budget)
        slowdown, alert = track.slowdown, self._alert(track)
        return ModelState(budget, slowdown.kappa, slowdown.sigma, track.arrivals.at(now_s or self._now_s), alert)

    def on_batch_done(self, done: BatchDone) -> None:
        track = self._tracks.get(done.model)
        if track is not None:
            track.slowdown.update(done.predicted_s, done.actual_s)

    def admit(self, view: ReplicaView, item: QueuedItem) -> Admission:
        self._now_s = view.now_s
        track = self._tracks[item.model]
        track.arrivals.count(view.now_s, item.rows)
        queue = view.queues.get(item.model)
        if queue is not None and len(queue) >= self.settings.max_queue:
            late = self._lateness(view, item, self._admission_sigmas(view))
            return self._refuse(view, item, late, ShedReason.QUEUE_FULL)
        if item.floor > track.plan.max_budget or not math.isfinite(item.deadline_s):
            return self._refuse(view, item, 0.0, ShedReason.FLOOR)
        if item.best_effort or self._easily(view, track, item):
            return ADMITTED
        sigmas = self._admission_sigmas(view)
        late = self._lateness(view, item, sigmas)
        if late <= 0.0:
            return ADMITTED
        if item.priority < LOW and self._lateness(view, item, sigmas, item.priority) <= 0.0:
            victims = shed_to_feasible(self._lanes_with(view, item, sigmas), self._machine(view))
            if item not in victims:
                return Admission(ok=True, evicted=tuple([victim for victim in victims if not victim.best_effort]))
        if item.floor > track.plan.min_budget and self._lateness(view, replace(item, floor=0.0), sigmas) <= 0.0:
            return self._refuse(view, item, late, ShedReason.FLOOR)
        alone_s = track.slowdown.kappa * track.plan.profile.seconds(item.floor, item.rows)
        by_load = item.arrival_s + alone_s <= item.deadline_s  # in time, had nothing kept it waiting
        if by_load:
            self._refused_s = view.now_s
        return replace(self._refuse(view, item, late, ShedReason.ADMISSION), by_load=by_load)

    def decide(self, view: ReplicaView) -> Decision | None:
        self._now_s = view.now_s
        waiting = [(self._tracks[name], queue) for name, queue in view.queues.items() if queue]
        if not waiting:
            return None
        machine, alert = self._machine(view), self._watchdog(waiting)
        refusing = self._refused_lately([track.plan.name for track, _ in waiting])
        careful = refusing or bool(alert)
        if len(waiting) == 1 and not careful:
            decision = self._at_once(*waiting[0], machine)
            if decision is not None:
                return decision
        # While load is refused, room kept for a batch slower than expected is room for a row that was refused.
        sigmas = 0.0 if refusing and not alert else None
        lanes = [self._lane(track, queue.items, queue.kinds, sigmas) for track, queue in waiting]
        low, high = min([lane.low for lane in lanes]), max([lane.high for lane in lanes])
        high = low if careful else max(low, min(high, self.budget + self.settings.rise_limit))
        plan = plan_head(lanes, machine, high, self.budget)
        if plan is None or math.isnan(plan.budget):
            decision = self._overloaded(lanes, machine)
        else:
            self.budget = plan.budget
            decision = self._dispatch(min(lanes, key=urgency), plan)
        return replace(decision, alert=alert) if alert else decision

    def _at_once(self, track: Track, queue: EdfQueue, machine: Machine) -> Decision | None:
        """The decision where it needs no search, as nearly always on a replica that is not loaded."""
        if self.budget + self.settings.rise_limit < track.plan.max_budget:
            return None
        decision = at_once(track, queue, machine, self.settings)
        if decision is not None:
            self.budget = decision.budget
        return decision

    def _watchdog(self, waiting: Sequence[tuple[Track, EdfQueue]]) -> str:
        """Why to be careful: nothing was decided for long although something waited, or the profile is far off."""
        silent = self._now_s - max(self._decided_s, min([queue.items[0].arrival_s for _, queue in waiting]))
        self._decided_s = self._now_s
        if silent > WATCHDOG_S and silent > max([track.plan.default_deadline_s for track, _ in waiting]):
            return f"nothing was decided for {silent:.1f} s while requests waited"
        return next((alert for track, _ in waiting if (alert := self._alert(track))), "")

    def _refused_lately(self, models: Iterable[str], deadlines: float = 1.0) -> bool:
        """Load was refused within the last deadlines: budget above the floor would be paid with more refusals."""
        deadline = max([self._tracks[model].plan.default_deadline_s for model in models])
        return 0.0 <= self._now_s - self._refused_s < deadlines * deadline

    def _alert(self, track: Track) -> str:
        """Why this model runs at its floor whatever its queue, "" if it does not."""
        if track.slowdown.clipped_in_a_row >= CLIPPED_BATCHES:
            return f"the last {CLIPPED_BATCHES} batches took {track.slowdown.CLIP:g} times the profiled time or more"
        return ""

    def _lane(
        self, track: Track, items: Sequence[QueuedItem], kinds: Kinds | None, sigmas: float | None = None
    ) -> Lane:
        plan, settings, deadline = track.plan, self.settings, track.deadline(items[0])
        margin = track.margin(settings.margin_sigmas if sigmas is None else sigmas)
        rows = len(items) if kinds else sum([item.rows for item in items[: plan.max_batch]])
        batch = min(rows, track.largest_batch(deadline, margin, settings))
        guard = settings.guard_ratio * deadline if sigmas is None else 0.0
        return Lane(plan.name, items, batch, plan.profile, margin, plan.min_budget, plan.max_budget, guard, kinds)

    def _machine(self, view: ReplicaView) -> Machine:
        """The workers at the moment when the next batch can start: now, or when the first busy one is done."""
        start, residual = view.now_s, 0.0
        if view.busy_until_s:
            if len(view.busy_until_s) >= view.workers:
                start = max(start, min(view.busy_until_s))
            residual = sum([max(0.0, end - start) for end in view.busy_until_s])
        tracks, now = self._tracks, view.now_s
        deadline = min([tracks[name].shortest_deadline(now, queue) for name, queue in view.queues.items()])
        return Machine(start, residual, view.workers, self.settings.block_ratio * deadline)

    def _overloaded(self, lanes: Sequence[Lane], machine: Machine) -> Decision:
        """Run at the floor; drop what cannot be on time there by the expected times, without their margin."""
        self.budget = min([lane.low for lane in lanes])
        expected = [lane._replace(margin=self._tracks[lane.model].slowdown.kappa, guard_s=0.0) for lane in lanes]
        dropped = shed_to_feasible(expected, machine)
        gone = {item.sequence for item in dropped}
        kept = [lane.of([item for item in lane.items if item.sequence not in gone]) for lane in lanes]
        kept = [lane for lane in kept if lane.items]
        if kept:
            urgent = min(kept, key=urgency)
            decision = self._dispatch(urgent, HeadPlan(self.budget, urgent.batch))
        else:
            decision = Decision(lanes[0].model, (), self.budget)
        sheds = tuple([Shed(item, _reason(item, self._tracks[item.model])) for item in dropped if not item.best_effort])
        deferred = tuple([self._defer(item) for item in dropped if item.best_effort])
        return replace(decision, sheds=sheds, deferred=deferred, limit=Limit.LOAD, at_floor=True)

    def _defer(self, item: QueuedItem) -> QueuedItem:
        """A best-effort request that will be late queues anew, one default deadline from now: late, but not never."""
        return replace(item, deadline_s=self._now_s + self._tracks[item.model].plan.default_deadline_s)

    def _dispatch(self, lane: Lane, plan: HeadPlan) -> Decision:
        batch = head_batch(lane.items, plan.rows) if lane.kinds is None else tuple(lane.items[: plan.rows])
        common = min(max(plan.budget, lane.low), lane.high)
        rows, total = 0, 0.0
        for item in batch:
            rows += item.rows
            total += item.rows * min(max(common, item.floor), item.ceiling)
        predicted = lane.profile.seconds(total / rows, rows)
        track = self._tracks[lane.model]
        limit = Limit.NONE if common >= lane.high else Limit.LOAD
        return Decision(lane.model, batch, common, predicted, predicted * track.slowdown.kappa, limit=limit)

    def _easily(self, view: ReplicaView, track: Track, item: QueuedItem) -> bool:
        """Whether there is nothing to think about: its queue is the only one, and far from full."""
        queue = view.queues.get(item.model)
        if queue is None or any(other for other in view.queues.values() if other is not queue):
            return False
        return fits(track, queue, self._machine(view), self.settings, item)

    def _admission_sigmas(self, view: ReplicaView) -> float:
        """How strict the admission test of an arrival is; the same for all that is asked about it."""
        refusing = self._refused_lately(view.queues, self.settings.strict_deadlines)
        return self.settings.admission_sigmas if refusing else self.settings.first_sigmas

    def _lateness(self, view: ReplicaView, item: QueuedItem, sigmas: float, worst_class: int = LOW) -> float:
        """Lateness of the backlog at the floors with `item` in it, classes below `worst_class` left out; seconds.

        Urgent requests need not share a full head batch with what can wait, so not positive as well where a smaller one
        is on time; unless load is refused anyway: then only full batches count, since smaller ones serve less.
        """
        lanes, machine = self._lanes_with(view, item, sigmas, worst_class), self._machine(view)
        backlog = plan_backlog(lanes)
        late_s = max(backlog.late(0, machine))
        if late_s <= 0.0 or self._refused_lately([lane.model for lane in lanes]):
            return late_s
        return late_s if plan_head(lanes, machine, backlog.knots[0]) is None else 0.0

    def _lanes_with(self, view: ReplicaView, item: QueuedItem, sigmas: float, worst_class: int = LOW) -> list[Lane]:
        """The backlog as it would be with `item`; the most urgent lane first."""
        lanes = []
        for name, queue in view.queues.items():
            items, kinds = queue.items, queue.kinds
            if name == item.model:
                kinds, at = queue.kinds_with(item), queue.insertion_point(item)
                items = [*items[:at], item, *items[at:]]
            if worst_class < LOW:
                kinds, items = None, [other for other in items if other.priority <= worst_class]
            if items:
                lanes.append(self._lane(self._tracks[name], items, kinds, sigmas))
        return sorted(lanes, key=urgency)

    def _refuse(self, view: ReplicaView, item: QueuedItem, late_s: float, reason: ShedReason) -> Admission:
        plan = self._tracks[item.model].plan
        per_row = plan.profile.seconds(plan.min_budget, plan.max_batch) / plan.max_batch
        retry = self._slots.reserve(view.now_s, late_s, per_row * item.rows / view.workers)
        return Admission(ok=False, retry_after_s=retry, reason=reason)


def _reason(item: QueuedItem, track: Track) -> ShedReason:
    return ShedReason.FLOOR if item.floor > track.plan.min_budget else ShedReason.DEADLINE
