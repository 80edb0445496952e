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

from service.control.backlog import Backlog, plan_backlog
from service.control.lane import Lane, Machine, urgency

EXACT_BATCHES = 64
SEARCH_STEPS = 6
BUDGET_TOLERANCE = 0.004
WINDOW = 0.1  # how far below its guess a budget is looked for first
# A smaller head batch must buy this much budget: it costs throughput.
WORTHWHILE = 0.01


class HeadPlan(NamedTuple):
    """The common budget, and how many rows the batch that is dispatched now may hold."""

    budget: float
    rows: int


def plan_head(
    lanes: Sequence[Lane], machine: Machine, low: float, high: float, near: float | None = None
) -> HeadPlan | None:
    """The largest common budget in [low, high] at which all lanes drain in time; None if they do not even at `low`.

    Only the most urgent lane's head batch is dispatched. Where its own deadline, or `block_s`, is what limits the
    budget, smaller head batches are tried as well. near: a guess of the budget, to find it sooner.
    """
    lanes = sorted(lanes, key=urgency) if len(lanes) > 1 else lanes
    head = lanes[0]
    alike = len(lanes) == 1 and head.alike
    best: HeadPlan | None = None
    rows, least = head.batch, low
    while True:
        if alike:
            found = _plan_alike(head, machine, rows, least, high)
        else:
            found = _plan_mixed(lanes, machine, rows, (least, high, least if near is None else near))
        if found.budget is not None and (best is None or found.budget > least):
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
    """The next size of the head batch to try: halved until it can be on time at `budget`."""
    allowed = min(lane.items[0].deadline_s - lane.guard_s - machine.now_s, machine.block_s) / lane.margin
    rows = (rows + 1) // 2
    while rows > 1 and lane.profile.seconds(budget, rows) > allowed:
        rows = (rows + 1) // 2
    return rows


def _plan_alike(lane: Lane, machine: Machine, rows: int, low: float, high: float) -> _Found:
    """The budget for one lane of one-row items."""
    profile, margin = lane.profile, lane.margin
    floor, ceiling = lane.bounds(lane.items[0])
    lowest = min(max(low, floor), ceiling)
    slack = (lane.items[0].deadline_s - lane.guard_s - machine.now_s) / margin
    rest = longest_batch_s(lane, rows, machine) / margin
    if slack < profile.seconds(lowest, rows) or rest < profile.seconds(lowest, lane.batch):
        return _Found(None, rest >= profile.seconds(lowest, lane.batch))
    by_head = profile.budget_for(min(slack, machine.block_s / margin), rows)
    by_rest = profile.budget_for(rest, lane.batch)
    limit = min(by_head, by_rest)
    budget = high if limit >= ceiling else min(high, max(low, limit))
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


def _plan_mixed(lanes: Sequence[Lane], machine: Machine, rows: int, within: tuple[float, float, float]) -> _Found:
    """The budget for any lanes. within: low, high, a guess.

    Lateness rises with the budget; where every batch would be on time is searched between a budget that is feasible
    and one that is not, at the first zero of the chords of all batches. What is returned was found feasible itself.
    """
    low, high, near = within
    backlog = plan_backlog(lanes, rows)
    block_s = max(machine.block_s, backlog.head_seconds(low))
    above = backlog.late(high, machine, block_s)
    if max(above) <= 0.0:
        return _Found(high, False)
    if low < near - WINDOW < high:
        below = backlog.late(near - WINDOW, machine, block_s)
        if max(below) <= 0.0:
            return _between(backlog, machine, block_s, (near - WINDOW, below), (high, above))
        high, above = near - WINDOW, below
    below = backlog.late(low, machine, block_s)
    if max(below) > 0.0:
        return _Found(None, max(below) == below[0])
    return _between(backlog, machine, block_s, (low, below), (high, above))


_Probe = tuple[float, list[float]]  # a budget, and how late every batch is at it


def _between(backlog: Backlog, machine: Machine, block_s: float, feasible: _Probe, infeasible: _Probe) -> _Found:
    (low, below), (high, above) = feasible, infeasible
    back = 0.0  # where lateness is convex every chord's zero is a little late: aim short of it after each miss
    for _ in range(SEARCH_STEPS):
        share = _first_zero(below, above)
        room = share * (high - low)
        if room <= BUDGET_TOLERANCE:
            break
        middle = low + max(room - back, room / 2)
        found = backlog.late(middle, machine, block_s)
        if max(found) <= 0.0:
            low, below, back = middle, found, 0.0
        else:
            high, above, back = middle, found, max(2.0 * back, BUDGET_TOLERANCE / 2)
    without_head = low + _first_zero(below[1:], above[1:]) * (high - low)
    return _Found(low, without_head - low > share * (high - low), without_head)


def _first_zero(below: Sequence[float], above: Sequence[float]) -> float:
    """Where the first of the chords from `below` to `above` is zero, as a share of the way; 1 if none is."""
    return min([early / (early - late) for early, late in zip(below, above, strict=True) if late > 0.0], default=1.0)
