"""Can the backlog be drained in time, and at which budget? Pure functions: numbers in, numbers out.

The batch that is dispatched now starts at once. List scheduling on `workers` workers starts every later batch no later
than (residual + time of the batches before it) / workers (Graham 1969). So a backlog is *drain-feasible* at a budget
when for every batch, in EDF order,

    start + time  <=  deadline of its first item - guard,     times at that budget, scaled by the lane's margin.

The bound is conserved from one dispatch to the next: with exact service times a feasible backlog stays feasible.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from service.control.backlog import EXACT_BATCHES, Backlog, plan_backlog
from service.control.lane import Lane, Machine, urgency

# A smaller head batch must buy this much budget: it costs throughput.
WORTHWHILE = 0.01


class HeadPlan(NamedTuple):
    """The common budget, and how many rows the batch that is dispatched now may hold."""

    budget: float
    rows: int


def plan_head(lanes: Sequence[Lane], machine: Machine, high: float, near: float | None = None) -> HeadPlan | None:
    """The largest common budget up to `high` at which all lanes drain in time; None if they do not even at their low.

    Only the most urgent lane's head batch is dispatched. Where its own deadline, or `block_s`, is what limits the
    budget, smaller head batches are tried as well. near: a guess of the budget, to find it sooner.
    """
    lanes = sorted(lanes, key=urgency) if len(lanes) > 1 else lanes
    head = lanes[0]
    alike = len(lanes) == 1 and head.alike
    best: HeadPlan | None = None
    rows, least = head.batch, -1.0
    while True:
        if alike:
            found = _solve_alike(head, machine, rows, high)
        else:
            found = _solve(plan_backlog(lanes, rows), machine, high, high if near is None else near)
        if found.budget is not None and found.budget >= least:
            best, least = HeadPlan(found.budget, rows), min(high, found.budget + WORTHWHILE)
        if rows == 1 or not found.head_binds:
            return best
        rows = _smaller(head, machine, rows, min(found.without_head, high))


class _Found(NamedTuple):
    """budget: the largest feasible one, or None. head_binds: the head batch is what limits it; without_head: the budget
    that the other batches would allow, or less."""

    budget: float | None
    head_binds: bool
    without_head: float = 0.0


def _smaller(lane: Lane, machine: Machine, rows: int, budget: float) -> int:
    """The next size of the head batch to try: a quarter less until it can be on time at `budget`."""
    allowed = min(lane.items[0].deadline_s - lane.guard_s - machine.now_s, machine.block_s) / lane.margin
    rows -= max(1, rows // 4)
    while rows > 1 and lane.profile.seconds(budget, rows) > allowed:
        rows -= max(1, rows // 4)
    return rows


def _solve(backlog: Backlog, machine: Machine, high: float, near: float) -> _Found:
    """Lateness rises with the budget, and is linear between knots: exact once the right pair of knots is found."""
    knots = backlog.knots
    block_s = max(machine.block_s, backlog.head_seconds())
    top = bisect_left(knots, high, hi=len(knots) - 1)
    feasible, infeasible = -1, top + 1
    below: list[float] = []
    above: list[float] = []
    at = min(top, bisect_left(knots, near))
    first = True
    while infeasible - feasible > 1:
        found = backlog.late(at, machine, block_s)
        if max(found) > 0.0:
            infeasible, above, beside = at, found, at - 1
        else:
            feasible, below, beside = at, found, at + 1
        at = beside if first else (feasible + infeasible) // 2
        first = False
    if feasible < 0:
        return _Found(None, max(above) == above[0])
    if infeasible > top:
        return _Found(min(high, knots[top]), False)
    # lateness is linear between these two knots: the first line that crosses zero, as a share of the way
    shares = [early / (early - late) if late > 0.0 else 1.0 for early, late in zip(below, above, strict=True)]
    room, rest = shares[0], min(shares[1:], default=1.0)
    width = knots[infeasible] - knots[feasible]
    budget = knots[feasible] + min(room, rest) * width
    return _Found(min(high, budget), room < rest and budget < high, knots[feasible] + rest * width)


def _solve_alike(lane: Lane, machine: Machine, rows: int, high: float) -> _Found:
    """The same for one lane of one-row items with equal bounds, in closed form."""
    profile, margin = lane.profile, lane.margin
    lowest, ceiling = lane.bounds(lane.items[0])
    slack = (lane.items[0].deadline_s - lane.guard_s - machine.now_s) / margin
    rest = longest_batch_s(lane, rows, machine) / margin
    if slack < profile.seconds(lowest, rows) or rest < profile.seconds(lowest, lane.batch):
        return _Found(None, rest >= profile.seconds(lowest, lane.batch))
    by_head = profile.budget_for(min(slack, machine.block_s / margin), rows)
    by_rest = profile.budget_for(rest, lane.batch)
    limit = min(by_head, by_rest)
    budget = high if limit >= ceiling else min(high, max(lane.low, limit))
    return _Found(budget, by_head < min(by_rest, high, ceiling))


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
