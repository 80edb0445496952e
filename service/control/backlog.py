"""The batches that dispatching would form, of any models, and how late they would be at a common budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from service.control.lane import Lane, Machine
from service.control.profile import ServiceProfile
from service.control.types import QueuedItem

WALKED_ITEMS = 512


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

    def first_late(self, budget: float, machine: Machine) -> int | None:
        """Index of the first batch that is late at this common budget; None if all are on time."""
        for count in range(1, len(self.limits_s) + 1):
            if Backlog(self.limits_s[:count], self.parts[:count], self.shares).lateness(budget, machine)[0] > 0.0:
                return count - 1
        return None


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
