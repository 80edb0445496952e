"""The replica as the law plans with it: workers, and one lane of waiting items per model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from service.control.kinds import Kinds
from service.control.profile import ServiceProfile
from service.control.timetable import clip_bounds
from service.control.types import QueuedItem


class Machine(NamedTuple):
    """now_s: when the dispatched batch starts. residual_s: work left of the batches now running, over all workers.

    block_s: longest time that one batch may keep a worker from later, more urgent arrivals (batches never preempt).
    """

    now_s: float
    residual_s: float
    workers: int
    block_s: float


class Lane(NamedTuple):
    """One model's part of the backlog.

    items: in EDF order. batch: rows per batch. margin: seconds per profiled second. low, high: budgets of the model
    within the rails. guard_s: kept free before every deadline. kinds: of the items, None where they must be looked at
    one by one.
    """

    model: str
    items: Sequence[QueuedItem]
    batch: int
    profile: ServiceProfile
    margin: float
    low: float
    high: float
    guard_s: float = 0.0
    kinds: Kinds | None = None

    @property
    def alike(self) -> bool:
        """Items have one row each and differ in deadline and priority only."""
        return self.kinds is not None and len(self.kinds.bounds) == 1

    def of(self, items: Sequence[QueuedItem]) -> Lane:
        """The lane with other items."""
        return self._replace(items=items, kinds=None)

    def bounds(self, item: QueuedItem) -> tuple[float, float]:
        """Budgets that `item` may get; its own floor is stronger than the rails."""
        return clip_bounds(self.low, self.high, (item.floor, item.ceiling))

    def floor_seconds_per_row(self, item: QueuedItem) -> float:
        """Time of one row of `item` in a full batch at its lowest budget."""
        return self.margin * self.profile.seconds(self.bounds(item)[0], self.batch) / self.batch


def urgency(lane: Lane) -> float:
    """Deadline of the first item."""
    return lane.items[0].deadline_s


def head_batch(items: Sequence[QueuedItem], max_rows: int) -> tuple[QueuedItem, ...]:
    """The first items in EDF order that may share a batch with the head; at least the head itself."""
    group = items[0].group
    batch: list[QueuedItem] = []
    rows = 0
    for item in items:
        if item.group == group:
            if batch and rows + item.rows > max_rows:
                break
            batch.append(item)
            rows += item.rows
            if rows >= max_rows:
                break
    return tuple(batch)
