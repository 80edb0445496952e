"""Can the backlog be drained in time, and at which budget? Pure functions: numbers in, numbers out.

The batch that is dispatched now starts at once. List scheduling on `workers` workers starts every later batch no later
than (residual + time of the batches before it) / workers (Graham 1969). So a backlog is *drain-feasible* at a budget
when for every batch, in EDF order,

    start + time  <=  deadline of its first item - guard,     times at that budget, scaled by the lane's margin.

The bound is conserved from one dispatch to the next: with exact service times a feasible backlog stays feasible.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from service.control.profile import ServiceProfile
from service.control.types import QueuedItem

EXACT_BATCHES = 64
WALKED_ITEMS = 512
SEARCH_STEPS = 8
BUDGET_TOLERANCE = 0.004
# A smaller head batch must buy this much budget: it costs throughput.
WORTHWHILE = 0.01


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


class HeadPlan(NamedTuple):
    """The common budget, and how many rows the batch that is dispatched now may hold."""

    budget: float
    rows: int


def plan_head(lanes: Sequence[Lane], machine: Machine, low: float, high: float) -> HeadPlan | None:
    """The largest common budget in [low, high] at which all lanes drain in time; None if they do not even at `low`.

    Only the most urgent lane's head batch is dispatched. Where its own deadline, or `block_s`, is what limits the
    budget, smaller head batches are tried as well.
    """
    lanes = sorted(lanes, key=urgency) if len(lanes) > 1 else lanes
    plan = _plan_alike if len(lanes) == 1 and lanes[0].alike else _plan_mixed
    best: HeadPlan | None = None
    rows = lanes[0].batch
    while True:
        budget, head_binds = plan(lanes, machine, rows, low, high)
        if budget is not None and (best is None or budget > best.budget + WORTHWHILE):
            best = HeadPlan(budget, rows)
        if rows == 1 or not head_binds:
            return best
        rows = (rows + 1) // 2


def urgency(lane: Lane) -> float:
    """Deadline of the first item."""
    return lane.items[0].deadline_s


def _plan_alike(
    lanes: Sequence[Lane], machine: Machine, rows: int, low: float, high: float
) -> tuple[float | None, bool]:
    """(largest budget or None, whether the head batch is what limits it) for one lane of one-row items."""
    lane = lanes[0]
    profile, margin = lane.profile, lane.margin
    floor, ceiling = lane.bounds(lane.items[0])
    lowest = min(max(low, floor), ceiling)
    slack = (lane.items[0].deadline_s - lane.guard_s - machine.now_s) / margin
    rest = longest_batch_s(lane, rows, machine) / margin
    if slack < profile.seconds(lowest, rows) or rest < profile.seconds(lowest, lane.batch):
        return None, rest >= profile.seconds(lowest, lane.batch)
    by_head = profile.budget_for(min(slack, machine.block_s / margin), rows)
    by_rest = profile.budget_for(rest, lane.batch)
    limit = min(by_head, by_rest)
    return high if limit >= ceiling else min(high, max(low, limit)), by_head < min(by_rest, high, ceiling)


def longest_batch_s(lane: Lane, head_rows: int, machine: Machine) -> float:
    """The longest time per full batch, after a head batch of `head_rows`, at which every later batch is on time.

    For one-row items; may be negative; infinite if nothing is left behind the head. Beyond EXACT_BATCHES batches,
    ranges that grow with the depth are tested as one, on the safe side: their first deadline at their last position.
    """
    items, batch, workers = lane.items, lane.batch, machine.workers
    count = len(items) - head_rows
    if count <= 0:
        return float("inf")
    start = machine.now_s + lane.guard_s + machine.residual_s / workers
    ratio = lane.profile.ratio
    before = ratio(head_rows, batch) / workers + 1.0
    whole, partial = divmod(count, batch)
    exact, stride = min(whole, EXACT_BATCHES), batch * workers
    ends = range(0, exact * batch, batch)
    allowed = [(items[head_rows + i].deadline_s - start) / (before + i / stride) for i in ends]
    k = exact
    while k < whole:
        last = min(whole, k + k // EXACT_BATCHES) - 1
        allowed.append((items[head_rows + k * batch].deadline_s - start) / (before + last / workers))
        k = last + 1
    if partial:
        weight = before - 1.0 + whole / workers + ratio(partial, batch)
        allowed.append((items[head_rows + whole * batch].deadline_s - start) / weight)
    return min(allowed)


def _plan_mixed(
    lanes: Sequence[Lane], machine: Machine, rows: int, low: float, high: float
) -> tuple[float | None, bool]:
    """(largest budget or None, whether the head batch is what limits it) for any lanes, by search over the budget."""
    backlog = plan_backlog(lanes, rows)
    block_s = max(machine.block_s, backlog.head_seconds(low))
    late_high, head_binds = backlog.lateness(high, machine, block_s)
    if late_high <= 0.0:
        return high, False
    late_low, head_late = backlog.lateness(low, machine, block_s)
    if late_low > 0.0:
        return None, head_late
    for step in range(SEARCH_STEPS):
        if high - low <= BUDGET_TOLERANCE:
            break
        share = late_low / (late_low - late_high) if step % 3 < 2 else 0.5
        middle = low + (high - low) * min(max(share, 0.05), 0.95)
        late, head_late = backlog.lateness(middle, machine, block_s)
        if late <= 0.0:
            low, late_low = middle, late
        else:
            high, late_high, head_binds = middle, late, head_late
    return low, head_binds


class Share(NamedTuple):
    """Rows of one kind inside batches of one size: the unit whose time depends on the common budget only."""

    profile: ServiceProfile
    batch_rows: int
    low: float
    high: float
    margin: float

    def seconds_per_row(self, budget: float) -> float:
        clipped = min(max(budget, self.low), self.high)
        return self.margin * self.profile.seconds(clipped, self.batch_rows) / self.batch_rows


Parts = list[tuple[int, int]]


class Backlog(NamedTuple):
    """Batches of any models, the one to dispatch first, then by deadline.

    limits_s: when each batch must be done: deadline of its first item - guard; parts: per batch (index of share, rows).
    """

    limits_s: Sequence[float]
    parts: Sequence[Parts]
    shares: Sequence[Share]

    def head_seconds(self, budget: float) -> float:
        return sum([self.shares[share].seconds_per_row(budget) * rows for share, rows in self.parts[0]])

    def lateness(self, budget: float, machine: Machine, block_s: float = float("inf")) -> tuple[float, bool]:
        """Largest (finish - limit) over the batches at this common budget, <= 0 when feasible; is it the head's?"""
        per_row = [share.seconds_per_row(budget) for share in self.shares]
        now, workers = machine.now_s, machine.workers
        head = sum([per_row[share] * rows for share, rows in self.parts[0]])
        head_late = worst = max(now + head - self.limits_s[0], head - block_s)
        start = now + (machine.residual_s + head) / workers
        for limit, parts in zip(self.limits_s[1:], self.parts[1:], strict=True):
            share, rows = parts[0]
            seconds = per_row[share] * rows
            for share, rows in parts[1:]:
                seconds += per_row[share] * rows
            if start + seconds - limit > worst:
                worst = start + seconds - limit
            start += seconds / workers
        return worst, worst == head_late


def plan_backlog(lanes: Sequence[Lane], head_rows: int | None = None) -> Backlog:
    """Form the batches that dispatching would form. lanes: the most urgent first; its head batch has `head_rows`."""
    shares: list[Share] = []
    batches: list[tuple[float, Parts]] = []
    for lane in lanes:
        rows = head_rows if lane is lanes[0] and head_rows is not None else lane.batch
        batches.extend((_alike_batches if lane.alike else _mixed_batches)(lane, rows, shares))
    if len(lanes) > 1:
        batches = [batches[0], *sorted(batches[1:], key=_limit)]
    return Backlog([limit for limit, _ in batches], [parts for _, parts in batches], shares)


def _limit(batch: tuple[float, Parts]) -> float:
    return batch[0]


def _alike_batches(lane: Lane, head_rows: int, shares: list[Share]) -> list[tuple[float, Parts]]:
    """Batches of one-row items that differ in their deadline only."""
    low, high = lane.bounds(lane.items[0])
    parts: dict[int, Parts] = {}
    batches = []
    first, count = 0, len(lane.items)
    while first < count:
        rows = min(lane.batch if first else head_rows, count - first)
        if rows not in parts:
            parts[rows] = [(len(shares), rows)]
            shares.append(Share(lane.profile, rows, low, high, lane.margin))
        batches.append((lane.items[first].deadline_s - lane.guard_s, parts[rows]))
        first += rows
    return batches


def _mixed_batches(lane: Lane, head_rows: int, shares: list[Share]) -> list[tuple[float, Parts]]:
    """Batches of items with floors, ceilings, rows and groups of their own; the end of a long queue is sampled."""
    formed: list[tuple[float, dict[tuple[float, float], int]]] = []
    open_batch: dict[object, list[int]] = {}  # group -> [batch index, rows left]
    for items, weight in _walked(lane.items):
        for item in items:
            rows = item.rows * weight
            place = open_batch.get(item.group)
            if place is None or place[1] < rows:
                place = open_batch[item.group] = [len(formed), (lane.batch if formed else head_rows)]
                formed.append((item.deadline_s - lane.guard_s, {}))
            place[1] -= rows
            kinds = formed[place[0]][1]
            bounds = (item.floor, item.ceiling)
            kinds[bounds] = kinds.get(bounds, 0) + rows
    return _with_shares(lane, formed, shares)


def _walked(items: Sequence[QueuedItem]) -> list[tuple[Sequence[QueuedItem], int]]:
    """(items, how many each stands for): all of them, or of a long queue the first ones and a sample of the others."""
    if len(items) <= WALKED_ITEMS:
        return [(items, 1)]
    exact = WALKED_ITEMS // 2
    stride = -(-(len(items) - exact) // exact)
    return [(items[:exact], 1), (items[exact::stride], stride)]


def _with_shares(
    lane: Lane, formed: list[tuple[float, dict[tuple[float, float], int]]], shares: list[Share]
) -> list[tuple[float, Parts]]:
    """Replace (floor, ceiling) by the index of the share that it costs."""
    index: dict[tuple[int, float, float], int] = {}
    batches = []
    for limit, kinds in formed:
        total = sum(kinds.values())
        parts = []
        for (floor, ceiling), rows in kinds.items():
            key = (total, floor, ceiling)
            if key not in index:
                index[key] = len(shares)
                high = max(min(lane.high, ceiling), floor)
                shares.append(Share(lane.profile, total, min(max(lane.low, floor), high), high, lane.margin))
            parts.append((index[key], rows))
        batches.append((limit, parts))
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
