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

from service.control.backlog import plan_backlog
from service.control.lane import Lane, Machine, urgency

EXACT_BATCHES = 64
SEARCH_STEPS = 8
BUDGET_TOLERANCE = 0.004
# A smaller head batch must buy this much budget: it costs throughput.
WORTHWHILE = 0.01


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
    rows, least = lanes[0].batch, low
    while True:
        budget, head_binds = plan(lanes, machine, rows, least, high)
        if budget is not None and (best is None or budget > least):
            best, least = HeadPlan(budget, rows), min(high, budget + WORTHWHILE)
        if rows == 1 or not head_binds:
            return best
        rows = (rows + 1) // 2


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
