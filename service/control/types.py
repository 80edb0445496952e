"""Values that cross the border between the scheduler (the loop) and the control law (the decision).

Times are seconds on one monotonic clock; budgets are shares of the gated MACs in (0, 1]; rows are batch rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from service.control.edf import EdfQueue
    from service.control.profile import ServiceProfile

HIGH, NORMAL, LOW = 0, 1, 2


def priority_class(priority: int) -> int:
    """Class of a request's `priority` parameter: 1 = high, 0 (the default) and 2 = normal, 3 and more = low."""
    if priority == 1:
        return HIGH
    return LOW if priority > 2 else NORMAL


class ShedReason(StrEnum):
    """Why a request was refused (at arrival) or removed from the queue (at dispatch)."""

    ADMISSION = "admission"  # at arrival: the deadline cannot be met, even at the floors of everybody
    DEADLINE = "deadline"  # in the queue: the deadline can no longer be met
    QUEUE_FULL = "queue_full"
    FLOOR = "floor"  # the request's own floor, or pin, is what cannot be met; a lower quality might be
    EVICTED = "evicted"  # room was made for a more urgent class
    QUOTA = "quota"
    SURPLUS = "surplus"  # unread, in a flood: see scheduling/intake.py


class Limit(StrEnum):
    """What kept the common budget below 1."""

    NONE = "none"
    LOAD = "load"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class QueuedItem:
    """One request in the queue, as the law sees it.

    deadline_s: absolute. floor, ceiling: budgets the request accepts, already inside the model's; equal when pinned
    (also for deadline_policy=reject). priority: HIGH, NORMAL or LOW. group: only items with equal groups may share
    a batch (tensor shapes). best_effort: answered late rather than never. sequence: unique, orders equal deadlines.
    """

    model: str
    deadline_s: float
    arrival_s: float
    sequence: int
    rows: int = 1
    floor: float = 0.0
    ceiling: float = 1.0
    priority: int = NORMAL
    group: object = None
    best_effort: bool = False

    def clip(self, budget: float) -> float:
        """The budget this request runs at when the common budget is `budget`."""
        return min(max(budget, self.floor), self.ceiling)


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What the law knows about one model.

    min_budget, max_budget: what it may choose from: the served budgets within the operator's limits; equal for a model
    without gates and while an operator holds the budget.
    """

    name: str
    profile: ServiceProfile
    default_deadline_s: float
    max_batch: int
    min_budget: float
    max_budget: float = 1.0


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A snapshot at the moment of a decision; built for one call, never kept.

    queues: model -> its queue; may include empty ones. busy_until_s: predicted end of every batch now running on a
    worker (`now_s + Decision.expected_s` at its dispatch). workers: how many batches run at the same time.
    """

    now_s: float
    queues: Mapping[str, EdfQueue]
    busy_until_s: Sequence[float] = ()
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Shed:
    item: QueuedItem
    reason: ShedReason


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now with one idle worker.

    First answer `sheds` and replace every item of `deferred` by its new version (same sequence, later deadline_s: a
    best-effort request that can no longer be on time); then run `batch`, each item at `item.clip(budget)`.
    An empty batch with sheds or deferrals means: decide again. predicted_s: the profile's time for the batch, what
    `on_batch_done` wants back; expected_s: the same corrected by the measured slowdown. alert: why a watchdog keeps the
    budget at the floor, "" if none does.
    """

    model: str
    batch: tuple[QueuedItem, ...]
    budget: float
    predicted_s: float = 0.0
    expected_s: float = 0.0
    sheds: tuple[Shed, ...] = ()
    deferred: tuple[QueuedItem, ...] = ()
    limit: Limit = Limit.NONE
    at_floor: bool = False
    alert: str = ""


@dataclass(frozen=True, slots=True)
class Admission:
    """Answer to an arrival. evicted: queued items to shed to make room (with ShedReason.EVICTED).

    by_load: refused for what is queued, not for what it asks itself: whoever comes next will fare no better.
    """

    ok: bool
    retry_after_s: float = 0.0
    reason: ShedReason | None = None
    evicted: tuple[QueuedItem, ...] = ()
    by_load: bool = False


ADMITTED = Admission(ok=True)


@dataclass(frozen=True, slots=True)
class BatchDone:
    """What a finished batch cost. predicted_s: Decision.predicted_s; actual_s: measured compute time of the batch."""

    model: str
    rows: int
    predicted_s: float
    actual_s: float
    now_s: float
    on_time: int = 0
    late: int = 0


@dataclass(frozen=True, slots=True)
class ModelState:
    """Controller gauges of one model. alert: why the watchdog holds it at its floor, "" if it does not."""

    budget: float
    service_ratio: float
    margin_sigma: float
    arrival_rate: float
    alert: str = ""


class Policy(Protocol):
    """A budget law with its state. Not thread-safe: the scheduler calls it from its event loop only."""

    def set_model(self, plan: ModelPlan) -> None:
        """Add a model or replace its plan."""

    def remove_model(self, name: str) -> None: ...

    def admit(self, view: ReplicaView, item: QueuedItem) -> Admission:
        """Test `item`, not yet in its queue. Called once for every arrival, because the law counts arrivals too."""

    def decide(self, view: ReplicaView) -> Decision | None:
        """The next batch for an idle worker; None when nothing is queued."""

    def on_batch_done(self, done: BatchDone) -> None: ...

    def state(self, model: str, now_s: float | None = None) -> ModelState:
        """Gauges. now_s: when the arrival rate is asked for; None = at the last event."""
        ...
