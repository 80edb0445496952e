"""Can the backlog be drained in time, and at which budget? Pure functions: numbers in, numbers out.

List scheduling on `workers` workers starts batch k no later than (residual + time of the batches before it) / workers
(Graham 1969), so a backlog is *drain-feasible* at a budget when for every batch k, in EDF order,

    now + guard + (residual + sum of times before k) / workers + time of k  <=  deadline of the first item of k.

The bound is conserved from one dispatch to the next: with exact service times a feasible backlog stays feasible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.control.profile import ServiceProfile
from service.control.types import QueuedItem

EXACT_BATCHES = 64
SEARCH_STEPS = 8
BUDGET_TOLERANCE = 0.004


@dataclass(frozen=True, slots=True)
class Machine:
    """now_s: when planning starts. residual_s: work left of the batches now running, summed over the workers."""

    now_s: float
    residual_s: float
    workers: int


def longest_batch_s(items: Sequence[QueuedItem], batch: int, machine: Machine, rest: float = 1.0) -> float:
    """The longest time per batch of `batch` one-row items at which every batch is on time; may be negative.

    rest: time of the last, partly filled batch in units of a full one. Beyond EXACT_BATCHES batches, ranges that grow
    with the depth are tested as one, on the safe side: the first deadline of a range against its last position.
    """
    workers, stride, count = machine.workers, batch * machine.workers, len(items)
    start = machine.now_s + machine.residual_s / workers
    whole, partial = divmod(count, batch)
    exact = min(whole, EXACT_BATCHES)
    allowed = [(items[i].deadline_s - start) / (1.0 + i / stride) for i in range(0, exact * batch, batch)]
    k = exact
    while k < whole:
        last = min(whole, k + k // EXACT_BATCHES) - 1
        allowed.append((items[k * batch].deadline_s - start) / (1.0 + last / workers))
        k = last + 1
    if partial:
        allowed.append((items[whole * batch].deadline_s - start) / (rest + whole / workers))
    return min(allowed)


@dataclass(frozen=True, slots=True)
class Share:
    """Rows of one kind inside batches of one size: the unit whose time depends on the common budget only."""

    profile: ServiceProfile
    batch_rows: int
    floor: float
    ceiling: float
    margin: float

    def seconds_per_row(self, budget: float) -> float:
        clipped = min(max(budget, self.floor), self.ceiling)
        return self.margin * self.profile.seconds(clipped, self.batch_rows) / self.batch_rows


@dataclass(frozen=True, slots=True)
class Backlog:
    """Batches in EDF order, of any models. heads: deadline of each batch; parts: per batch (index of share, rows)."""

    heads: Sequence[float]
    parts: Sequence[Sequence[tuple[int, int]]]
    shares: Sequence[Share]

    def lateness(self, budget: float, machine: Machine) -> float:
        """Largest predicted finish - deadline over all batches at this common budget; <= 0 when feasible."""
        per_row = [share.seconds_per_row(budget) for share in self.shares]
        workers = machine.workers
        start = machine.now_s + machine.residual_s / workers
        worst = float("-inf")
        for head, parts in zip(self.heads, self.parts, strict=True):
            if len(parts) == 1:
                share, rows = parts[0]
                seconds = per_row[share] * rows
            else:
                seconds = sum([per_row[share] * rows for share, rows in parts])
            late = start + seconds - head
            if late > worst:
                worst = late
            start += seconds / workers
        return worst

    def largest_budget(self, low: float, high: float, machine: Machine) -> float | None:
        """The largest common budget in [low, high] without lateness; None if even `low` is late."""
        late_high = self.lateness(high, machine)
        if late_high <= 0.0:
            return high
        late_low = self.lateness(low, machine)
        if late_low > 0.0:
            return None
        for step in range(SEARCH_STEPS):
            if high - low <= BUDGET_TOLERANCE:
                break
            share = late_low / (late_low - late_high)
            middle = low + (high - low) * (min(max(share, 0.05), 0.95) if step % 3 < 2 else 0.5)
            late = self.lateness(middle, machine)
            if late <= 0.0:
                low, late_low = middle, late
            else:
                high, late_high = middle, late
        return low


WALKED_ITEMS = 512


@dataclass(frozen=True, slots=True)
class Lane:
    """One model's part of the backlog.

    items: in EDF order. batch: rows per batch. margin: seconds per profiled second. low, high: budgets of the model
    within the rails. guard_s: kept free before every deadline. alike: items differ in deadline and priority only.
    """

    model: str
    items: Sequence[QueuedItem]
    batch: int
    profile: ServiceProfile
    margin: float
    low: float
    high: float
    guard_s: float = 0.0
    alike: bool = False

    def bounds(self, item: QueuedItem) -> tuple[float, float]:
        """Budgets that `item` may get; its own floor is stronger than the rails."""
        high = max(min(self.high, item.ceiling), item.floor)
        return min(max(self.low, item.floor), high), high

    def floor_seconds_per_row(self, item: QueuedItem) -> float:
        """Time of one row of `item` in a full batch at its lowest budget."""
        return self.margin * self.profile.seconds(self.bounds(item)[0], self.batch) / self.batch


def plan_backlog(lanes: Sequence[Lane]) -> Backlog:
    """Form the batches that dispatching would form and order them by the deadline of their first item."""
    shares: list[Share] = []
    batches: list[tuple[float, list[tuple[int, int]]]] = []
    for lane in lanes:
        if lane.alike:
            batches.extend(_alike_batches(lane, shares))
        else:
            batches.extend(_mixed_batches(lane, shares))
    if len(lanes) > 1:
        batches.sort(key=_head)
    return Backlog([head for head, _ in batches], [parts for _, parts in batches], shares)


def _head(batch: tuple[float, list[tuple[int, int]]]) -> float:
    return batch[0]


def _alike_batches(lane: Lane, shares: list[Share]) -> list[tuple[float, list[tuple[int, int]]]]:
    """Batches of one-row items that differ in their deadline only."""
    items, count, batch, guard = lane.items, len(lane.items), lane.batch, lane.guard_s
    low, high = lane.bounds(items[0])
    full = [(len(shares), batch)]
    shares.append(Share(lane.profile, batch, low, high, lane.margin))
    batches = [(items[i].deadline_s - guard, full) for i in range(0, count - count % batch, batch)]
    if rest := count % batch:
        batches.append((items[count - rest].deadline_s - guard, [(len(shares), rest)]))
        shares.append(Share(lane.profile, rest, low, high, lane.margin))
    return batches


def _mixed_batches(lane: Lane, shares: list[Share]) -> list[tuple[float, list[tuple[int, int]]]]:
    """Batches of items with floors, ceilings, rows and groups of their own; a long queue is sampled evenly."""
    stride = max(1, len(lane.items) // WALKED_ITEMS)
    formed: list[tuple[float, dict[tuple[float, float], int]]] = []
    open_batch: dict[object, tuple[int, dict[tuple[float, float], int]]] = {}
    for item in lane.items[::stride]:
        rows = item.rows
        filled, kinds = open_batch.get(item.group, (lane.batch, {}))
        if filled + rows > lane.batch:
            filled, kinds = 0, {}
            formed.append((item.deadline_s - lane.guard_s, kinds))
        bounds = lane.bounds(item)
        kinds[bounds] = kinds.get(bounds, 0) + rows
        open_batch[item.group] = (filled + rows, kinds)
    index: dict[tuple[int, float, float], int] = {}
    batches = []
    for head, kinds in formed:
        total = sum(kinds.values())
        parts = []
        for (floor, ceiling), rows in kinds.items():
            key = (total, floor, ceiling)
            if key not in index:
                index[key] = len(shares)
                shares.append(Share(lane.profile, total, floor, ceiling, lane.margin))
            parts.append((index[key], rows * stride))
        batches.append((head, parts))
    return batches


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
