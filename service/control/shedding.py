"""Batch-aware shedding: the fewest and least important requests to drop so that the rest can be on time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from service.control.backlog import plan_backlog
from service.control.lane import Lane, Machine, urgency
from service.control.types import QueuedItem

MAX_SINGLE_SHEDS = 64  # bounds the time of one decision; the next one goes on

# least important class first, in it the costliest item, of these the newest: it is told early, and may try elsewhere
_Candidate = tuple[int, float, int, QueuedItem]


@dataclass(slots=True)
class _Batch:
    """A batch being filled, and the seconds it may take before its first item is late."""

    rows: int = 0
    seconds: float = 0.0
    allowed_s: float = 0.0


def shed_to_feasible(lanes: Sequence[Lane], machine: Machine) -> list[QueuedItem]:
    """Items to remove so that the rest, batched and each at its floor, is on time (after Moore and Hodgson 1968).

    Class by class, the most important first: what a class keeps, a less important one cannot take away.
    """
    shed: list[QueuedItem] = []
    gone: set[int] = set()
    classes = sorted({item.priority for lane in lanes for item in lane.items})
    for worst in classes:
        considered = [
            lane.of([i for i in lane.items if i.priority <= worst and i.sequence not in gone]) for lane in lanes
        ]
        dropped = _shed_walk([lane for lane in considered if lane.items], machine)
        shed += dropped
        gone |= {item.sequence for item in dropped}
    return _without_inversions(lanes, shed + _shed_rest(lanes, gone, machine))


def _without_inversions(lanes: Sequence[Lane], shed: Sequence[QueuedItem]) -> list[QueuedItem]:
    """Exchange what was shed for less important items that were kept, wherever that leaves the rest on time.

    It does where both cost the same and the more important one is due no earlier: everything between moves forward.
    The walks above cannot see it, because they count batches that are not full yet as full.
    """
    gone = {item.sequence: item for item in shed}
    for lane in lanes:
        for important in sorted({item.priority for item in gone.values()}):
            _exchange(lane.items, important, gone)
    return list(gone.values())


def _exchange(items: Sequence[QueuedItem], important: int, gone: dict[int, QueuedItem]) -> None:
    """Walk in order of deadline; keep a shed item of this class for the worst kept one of its kind seen so far."""
    kept: dict[object, list[tuple[int, int, QueuedItem]]] = {}
    for item in sorted(items, key=lambda item: (item.deadline_s, item.sequence in gone)):
        kind = item.rows, item.floor, item.ceiling, item.group
        if item.sequence not in gone:
            if item.priority > important:
                heappush(kept.setdefault(kind, []), (-item.priority, -item.sequence, item))
        elif item.priority == important and kept.get(kind):
            _, _, worst = heappop(kept[kind])
            del gone[item.sequence]
            gone[worst.sequence] = worst


def _shed_rest(lanes: Sequence[Lane], gone: set[int], machine: Machine) -> list[QueuedItem]:
    """What the walk, which counts every batch as full, left over: drop one by one until the batches formed fit."""
    shed: list[QueuedItem] = []
    while len(shed) < MAX_SINGLE_SHEDS:
        rest = [lane.of([i for i in lane.items if i.sequence not in gone]) for lane in lanes]
        rest = sorted([lane for lane in rest if lane.items], key=urgency)
        if not rest:
            break
        backlog = plan_backlog(rest)
        late = next((index for index, late_s in enumerate(backlog.late(0, machine)) if late_s > 0.0), None)
        if late is None:
            break
        candidates = [
            (item.priority, lane.floor_seconds_per_row(item) * item.rows, item.sequence, item)
            for lane in rest
            for i, item in enumerate(lane.items)
            if lane.items[max(0, i - lane.batch + 1)].deadline_s - lane.guard_s <= backlog.limits_s[late]
        ]
        shed.append(max(candidates)[-1])
        gone.add(shed[-1].sequence)
    return shed


def _shed_walk(lanes: Sequence[Lane], machine: Machine) -> list[QueuedItem]:
    """Walk in EDF order; when a batch would be late, drop the worst candidate seen so far until it is not."""
    queued = sorted(((item, lane) for lane in lanes for item in lane.items), key=_order)
    left = {id(lane): sum([item.rows for item in lane.items]) for lane in lanes}
    open_batches: dict[tuple[int, object], _Batch] = {}
    candidates: list[_Candidate] = []
    shed: list[QueuedItem] = []
    work_s = machine.residual_s
    for item, lane in queued:
        key = (id(lane), item.group)
        per_row = lane.floor_seconds_per_row(item)
        cost = per_row * item.rows
        batch = open_batches.get(key)
        if batch is None or batch.rows + item.rows > lane.batch:
            batch = _Batch(allowed_s=item.deadline_s - lane.guard_s - machine.now_s - work_s / machine.workers)
        planned = max(batch.seconds + cost, per_row * min(lane.batch, left[key[0]]) if not batch.rows else 0.0)
        left[key[0]] -= item.rows
        heappush(candidates, (-item.priority, -cost, -item.sequence, item))
        work_s += cost
        while planned > batch.allowed_s and shed[-1:] != [item]:
            _, negative_cost, _, dropped = heappop(candidates)
            shed.append(dropped)
            work_s += negative_cost
            batch.allowed_s -= negative_cost / machine.workers
        if shed[-1:] != [item]:
            batch.rows += item.rows
            batch.seconds += cost
            open_batches[key] = batch
    return shed


def _order(entry: tuple[QueuedItem, Lane]) -> tuple[float, int]:
    return entry[0].deadline_s, entry[0].sequence
