"""The batches that dispatching would form, of any models, and how late they would be at a common budget."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, islice
from typing import NamedTuple

from service.control.kinds import Kinds
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


Form = tuple[tuple[int, int], ...]  # a batch: (index of share, rows), ...


class Backlog(NamedTuple):
    """Batches of any models, the one to dispatch first, then by deadline.

    limits_s: when each batch must be done: deadline of its first item - guard. formed: index of each batch's form;
    batches that are composed alike share one.
    """

    limits_s: Sequence[float]
    formed: Sequence[int]
    forms: Sequence[Form]
    shares: Sequence[Share]

    def head_seconds(self, budget: float) -> float:
        return sum([self.shares[share].seconds_per_row(budget) * rows for share, rows in self.forms[self.formed[0]]])

    def lateness(self, budget: float, machine: Machine) -> float:
        """Largest (finish - limit) over the batches at this common budget, seconds; <= 0 when feasible."""
        return max(self.late(budget, machine))

    def first_late(self, budget: float, machine: Machine) -> int | None:
        """Index of the first batch that is late at this common budget; None if all are on time."""
        return next((index for index, late in enumerate(self.late(budget, machine)) if late > 0.0), None)

    def late(self, budget: float, machine: Machine, block_s: float = float("inf")) -> list[float]:
        """Finish - limit of each batch; the head starts now, the others by list scheduling.

        The head is late as well if it keeps its worker for longer than `block_s`.
        """
        per_row = [share.seconds_per_row(budget) for share in self.shares]
        of_form = [sum([per_row[share] * rows for share, rows in form]) for form in self.forms]
        seconds = [of_form[form] for form in self.formed]
        head, limits = seconds[0], self.limits_s
        late = [max(machine.now_s + head - limits[0], head - block_s)]
        if machine.workers == 1:
            ends = accumulate(seconds, initial=machine.now_s + machine.residual_s)
            late += [end - limit for end, limit in zip(islice(ends, 2, None), islice(limits, 1, None), strict=True)]
            return late
        share = 1.0 / machine.workers
        before = machine.now_s + machine.residual_s * share
        for limit, last, mine in zip(islice(limits, 1, None), seconds, islice(seconds, 1, None), strict=False):
            before += last * share
            late.append(before + mine - limit)
        return late


class _Forms:
    """Collects the forms and shares of a backlog while its batches are formed."""

    def __init__(self) -> None:
        self.forms: list[Form] = []
        self.shares: list[Share] = []
        self._known: dict[tuple[int, object], int] = {}
        self._known_shares: dict[tuple[int, int, float, float], int] = {}

    def of(self, lane: Lane, composed: tuple[tuple[tuple[float, float], int], ...]) -> int:
        """Index of the form of a batch with `rows` rows of each (floor, ceiling)."""
        key = id(lane), composed
        known = self._known.get(key)
        if known is None:
            total = sum([rows for _, rows in composed])
            form = tuple([(self._share(lane, total, *bounds), rows) for bounds, rows in composed])
            known = self._known[key] = len(self.forms)
            self.forms.append(form)
        return known

    def _share(self, lane: Lane, total: int, floor: float, ceiling: float) -> int:
        high = max(min(lane.high, ceiling), floor)
        key = id(lane), total, min(max(lane.low, floor), high), high
        known = self._known_shares.get(key)
        if known is None:
            known = self._known_shares[key] = len(self.shares)
            self.shares.append(Share(lane.profile, total, key[2], high, lane.margin))
        return known


def plan_backlog(lanes: Sequence[Lane], head_rows: int | None = None) -> Backlog:
    """Form the batches that dispatching would form. lanes: the most urgent first; its head batch has `head_rows`."""
    forms = _Forms()
    batches: list[tuple[float, int]] = []
    for lane in lanes:
        rows = head_rows if lane is lanes[0] and head_rows is not None else lane.batch
        if lane.kinds is None:
            batches.extend(_mixed_batches(lane, rows, forms))
        else:
            batches.extend(_counted_batches(lane, lane.kinds, rows, forms))
    if len(lanes) > 1:
        batches = [batches[0], *sorted(batches[1:], key=_limit)]
    return Backlog([limit for limit, _ in batches], [form for _, form in batches], forms.forms, forms.shares)


def _limit(batch: tuple[float, int]) -> float:
    return batch[0]


def _counted_batches(lane: Lane, kinds: Kinds, head_rows: int, forms: _Forms) -> list[tuple[float, int]]:
    """Batches of one-row items: composed by counting codes, no item but each batch's first is looked at."""
    items, guard, count = lane.items, lane.guard_s, len(lane.items)
    starts = [0, *range(head_rows, count, lane.batch)] if count > head_rows else [0]
    stops = [*starts[1:], count]
    if len(kinds.bounds) == 1:
        composed = [(stop - start,) for start, stop in zip(starts, stops, strict=True)]
    else:
        number = kinds.codes.count
        spans = list(zip(starts, stops, strict=True))
        composed = list(zip(*[[number(code, *span) for span in spans] for code in kinds.bounds], strict=True))
    bounds = list(kinds.bounds.values())
    form_of = {
        counts: forms.of(lane, tuple([(b, rows) for b, rows in zip(bounds, counts, strict=True) if rows]))
        for counts in set(composed)
    }
    return [(items[start].deadline_s - guard, form_of[counts]) for start, counts in zip(starts, composed, strict=True)]


def _mixed_batches(lane: Lane, head_rows: int, forms: _Forms) -> list[tuple[float, int]]:
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
    return [(limit, forms.of(lane, tuple(kinds.items()))) for limit, kinds in formed]


def _walked(items: Sequence[QueuedItem]) -> list[tuple[Sequence[QueuedItem], int]]:
    """(items, how many each stands for): all of them, or of a long queue the first ones and a sample of the others."""
    if len(items) <= WALKED_ITEMS:
        return [(items, 1)]
    exact = WALKED_ITEMS // 2
    stride = -(-(len(items) - exact) // exact)
    return [(items[:exact], 1), (items[exact::stride], stride)]
