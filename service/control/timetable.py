"""Timetable: what batches of one model take at the budgets where their time bends, computed once and remembered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from service.control.profile import ServiceProfile

REMEMBERED_TABLES = 64
REMEMBERED_BATCHES = 4096
MAX_KNOTS = 24

Bounds = tuple[float, float]  # floor, ceiling
Counts = tuple[int, ...]  # rows of each kind
Seconds = tuple[float, ...]  # at each knot


def clip_bounds(low: float, high: float, bounds: Bounds) -> Bounds:
    """Budgets that a request may get inside a model's rails; its own floor is stronger than they are."""
    top = max(min(high, bounds[1]), bounds[0])
    return min(max(low, bounds[0]), top), top


def coarse(kinds: Sequence[Bounds]) -> Sequence[Bounds]:
    """The kinds, or where they have more bounds than it pays to tell apart, bounds rounded up to a grid.

    Rounding up is on the safe side: a batch is never planned faster than it is.
    """
    if len({bound for kind in kinds for bound in kind}) <= MAX_KNOTS // 2:
        return kinds
    steps = MAX_KNOTS // 2
    return [(-(-floor * steps // 1) / steps, -(-ceiling * steps // 1) / steps) for floor, ceiling in kinds]


def bends(profile: ServiceProfile, rails: Bounds, kinds: Iterable[Bounds]) -> set[float]:
    """Common budgets within the rails between which the time of every batch of such requests is linear."""
    low, high = rails
    points = {low, high, *profile.budgets}
    for kind in kinds:
        points.update(clip_bounds(low, high, kind))
    return {point for point in points if low <= point <= high}


class Timetable:
    """What batches of a profile take at each of `knots`, ascending common budgets. kinds: (floor, ceiling) each."""

    def __init__(self, profile: ServiceProfile, rails: Bounds, kinds: Sequence[Bounds], knots: Sequence[float]) -> None:
        self.knots = tuple(knots)
        self._profile = profile
        clipped = [clip_bounds(*rails, kind) for kind in kinds]
        self._budgets = [[min(max(knot, low), high) for knot in self.knots] for low, high in clipped]
        self._batches: dict[int, Batches] = {}

    def of_rows(self, rows: int) -> Batches:
        """Batches of at most so many rows."""
        known = self._batches.get(rows)
        if known is None:
            known = self._batches[rows] = Batches(self, rows)
        return known

    def seconds(self, counts: Counts, rows: int) -> Seconds:
        """Of so many rows of each kind, in batches of `rows`, at every knot."""
        seconds, profile = [0.0] * len(self.knots), self._profile
        for count, budgets in zip(counts, self._budgets, strict=True):
            if count:
                share = count / rows
                seconds = [s + share * profile.seconds(b, rows) for s, b in zip(seconds, budgets, strict=True)]
        return tuple(seconds)


class Batches(dict[Counts, Seconds]):
    """Rows of each kind -> seconds at every knot, remembered; more than `max_rows` stand for several full batches."""

    def __init__(self, table: Timetable, max_rows: int) -> None:
        super().__init__()
        self._table = table
        self._max_rows = max_rows

    def __missing__(self, counts: Counts) -> Seconds:
        if len(self) >= REMEMBERED_BATCHES:
            self.clear()
        found = self[counts] = self._table.seconds(counts, min(sum(counts), self._max_rows))
        return found


def timetable(
    profile: ServiceProfile, rails: Bounds, kinds: tuple[Bounds, ...], knots: tuple[float, ...] = ()
) -> Timetable:
    """The profile's own timetable for such requests. knots: none, to have those of `bends`."""
    known = profile.timetables
    key = (rails, kinds, knots)
    found = known.get(key)
    if found is None:
        if len(known) >= REMEMBERED_TABLES:
            known.clear()
        wanted = coarse(kinds)
        found = known[key] = Timetable(profile, rails, wanted, knots or sorted(bends(profile, rails, wanted)))
    return found
