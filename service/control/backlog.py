"""The batches that dispatching would form, of any models, and how late they would be at a common budget."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, islice
from operator import sub
from typing import NamedTuple

from service.control.kinds import Kinds
from service.control.lane import Lane, Machine
from service.control.timetable import Bounds, Counts, Seconds, timetable
from service.control.types import QueuedItem

EXACT_BATCHES = 64
WALKED_ITEMS = 512


class Formed(NamedTuple):
    """The batches of one lane in EDF order, the head first: rows of each kind. kinds: bounds of these requests.

    max_rows: of a batch; more stand for several.
    """

    limits_s: list[float]
    batches: list[Counts]
    kinds: tuple[Bounds, ...]
    max_rows: int


class Backlog(NamedTuple):
    """Batches of any models, the one to dispatch first, then by deadline.

    knots: common budgets, ascending, from the lowest to the highest that any request may get; between two of them
    every time is linear. limits_s: when each batch must be done: deadline of its first item - guard. times: of each
    batch at every knot, in profiled seconds; margins: seconds per profiled second, of each batch.
    """

    knots: Sequence[float]
    limits_s: Sequence[float]
    times: Sequence[Seconds]
    margins: Sequence[float]

    def head_seconds(self, knot: int = 0) -> float:
        return self.times[0][knot] * self.margins[0]

    def late(self, knot: int, machine: Machine, block_s: float = float("inf")) -> list[float]:
        """Finish - limit of each batch at `knots[knot]`, seconds; the head starts now, the others by list scheduling.

        The head is late as well if it keeps its worker for longer than `block_s`.
        """
        seconds = [margin * times[knot] for margin, times in zip(self.margins, self.times, strict=True)]
        head, limits = seconds[0], self.limits_s
        head_late = max(machine.now_s + head - limits[0], head - block_s)
        if machine.workers == 1:
            seconds[0] += machine.now_s + machine.residual_s
            late = list(map(sub, accumulate(seconds), limits))
            late[0] = head_late
            return late
        late = [head_late]
        share = 1.0 / machine.workers
        before = machine.now_s + machine.residual_s * share
        for limit, last, mine in zip(islice(limits, 1, None), seconds, islice(seconds, 1, None), strict=False):
            before += last * share
            late.append(before + mine - limit)
        return late

    def late_at(self, budget: float, machine: Machine) -> list[float]:
        """`late` at any common budget."""
        index = min(max(bisect_right(self.knots, budget) - 1, 0), len(self.knots) - 1)
        below = self.late(index, machine)
        if index + 1 == len(self.knots):
            return below
        low, high = self.knots[index : index + 2]
        share = max(0.0, (budget - low) / (high - low))
        return [a + share * (b - a) for a, b in zip(below, self.late(index + 1, machine), strict=True)]


def plan_backlog(lanes: Sequence[Lane], head_rows: int | None = None) -> Backlog:
    """Form the batches that dispatching would form. lanes: the most urgent first; its head batch has `head_rows`."""
    first = lanes[0]
    formed = [_form(lane, head_rows if lane is first and head_rows is not None else lane.batch) for lane in lanes]
    tables = [timetable(lane.profile, (lane.low, lane.high), f.kinds) for lane, f in zip(lanes, formed, strict=True)]
    knots = tables[0].knots
    if len(lanes) > 1 and any(table.knots != knots for table in tables):
        knots = tuple(sorted({knot for table in tables for knot in table.knots}))
        tables = [
            timetable(lane.profile, (lane.low, lane.high), f.kinds, knots)
            for lane, f in zip(lanes, formed, strict=True)
        ]
    timed = [table.of_rows(f.max_rows) for table, f in zip(tables, formed, strict=True)]
    if len(lanes) == 1:
        limits, batches, _, _ = formed[0]
        known = timed[0]
        return Backlog(knots, limits, [known[batch] for batch in batches], [first.margin] * len(batches))
    merged: list[tuple[float, Seconds, float]] = []
    for lane, f, known in zip(lanes, formed, timed, strict=True):
        margin = lane.margin
        merged += [(limit, known[batch], margin) for limit, batch in zip(f.limits_s, f.batches, strict=True)]
    head = merged.pop(0)
    merged.sort(key=_limit)
    limits_s, times, margins = zip(head, *merged, strict=True)
    return Backlog(knots, limits_s, times, margins)


def _limit(batch: tuple[float, Seconds, float]) -> float:
    return batch[0]


def _form(lane: Lane, head_rows: int) -> Formed:
    return _looked(lane, head_rows) if lane.kinds is None else _counted(lane, lane.kinds, head_rows)


def _counted(lane: Lane, kinds: Kinds, head_rows: int) -> Formed:
    """Batches of one-row items: composed by counting codes, no item but each batch's first is looked at."""
    items, guard, size, count = lane.items, lane.guard_s, lane.batch, len(lane.items)
    starts = _starts(head_rows, size, count)
    stops = [*starts[1:], count]
    limits = [items[start].deadline_s - guard for start in starts]
    rest, columns = list(map(sub, stops, starts)), []
    number, codes = kinds.codes.count, list(kinds.bounds)
    for code in codes[:-1]:
        columns.append([number(code, start, stop) for start, stop in zip(starts, stops, strict=True)])
        rest = list(map(sub, rest, columns[-1]))
    return Formed(limits, list(zip(*columns, rest, strict=True)), tuple(kinds.bounds.values()), size)


def _starts(head_rows: int, size: int, count: int) -> list[int]:
    """Index of the first item of each batch.

    Beyond EXACT_BATCHES, ranges of batches that grow with the depth are taken as one, on the safe side: all of them are
    due when their first item is. The last, not full batch always stands alone.
    """
    if count <= head_rows:
        return [0]
    exact = head_rows + EXACT_BATCHES * size
    starts = [0, *range(head_rows, min(count, exact), size)]
    if count <= exact:
        return starts
    full = head_rows + (count - head_rows) // size * size
    at = exact
    while at < full:
        starts.append(at)
        at += (at // size // EXACT_BATCHES) * size
    return [*starts, full] if full < count else starts


def _looked(lane: Lane, head_rows: int) -> Formed:
    """Batches of items with floors, ceilings, rows and groups of their own; the end of a long queue is sampled."""
    limits: list[float] = []
    counted: list[dict[int, int]] = []
    code_of: dict[Bounds, int] = {}
    open_batch: dict[object, list[int]] = {}  # group -> [batch index, rows left]
    for items, weight in _walked(lane.items):
        for item in items:
            rows = item.rows * weight
            place = open_batch.get(item.group)
            if place is None or place[1] < rows:
                place = open_batch[item.group] = [len(limits), (lane.batch if limits else head_rows)]
                limits.append(item.deadline_s - lane.guard_s)
                counted.append({})
            place[1] -= rows
            code = code_of.setdefault((item.floor, item.ceiling), len(code_of))
            counts = counted[place[0]]
            counts[code] = counts.get(code, 0) + rows
    codes = range(len(code_of))
    batches = [tuple([counts.get(code, 0) for code in codes]) for counts in counted]
    return Formed(limits, batches, tuple(code_of), max(map(sum, batches)))


def _walked(items: Sequence[QueuedItem]) -> list[tuple[Sequence[QueuedItem], int]]:
    """(items, how many each stands for): all of them, or of a long queue the first ones and a sample of the others."""
    if len(items) <= WALKED_ITEMS:
        return [(items, 1)]
    exact = WALKED_ITEMS // 2
    stride = -(-(len(items) - exact) // exact)
    return [(items[:exact], 1), (items[exact::stride], stride)]
