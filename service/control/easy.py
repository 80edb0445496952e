"""What the law would find after a search, told at once where the replica is not loaded; the law asks here first.

Both functions say no more than the full law would: where they cannot tell, they leave it to the law.
"""

from __future__ import annotations

from service.control.edf import EdfQueue, edf_order
from service.control.lane import Machine
from service.control.timetable import clip_bounds
from service.control.track import LawSettings, Track
from service.control.types import Decision, QueuedItem


def at_once(track: Track, queue: EdfQueue, machine: Machine, settings: LawSettings) -> Decision | None:
    """All that waits, in one batch at the highest budget; None where that may not be the law's decision."""
    plan, items, head = track.plan, queue.items, queue.items[0]
    rows, deadline, margin = head.rows, track.deadline(head), track.margin(settings.margin_sigmas)
    if len(items) > 1:
        rows = len(items)
        if rows > plan.max_batch or not queue.alike or rows > track.largest_batch(deadline, margin, settings):
            return None
    budget = clip_bounds(plan.min_budget, plan.max_budget, (head.floor, head.ceiling))[1]
    predicted = plan.profile.seconds(budget, rows)
    slack = head.deadline_s - settings.guard_ratio * deadline - machine.now_s
    if margin * predicted > min(slack, machine.block_s):
        return None
    return Decision(plan.name, tuple(items), plan.max_budget, predicted, predicted * track.slowdown.kappa)


def fits(track: Track, queue: EdfQueue, machine: Machine, settings: LawSettings, item: QueuedItem) -> bool:
    """Whether all of its queue and `item` would be done at their floors before the first of them is due.

    Then nothing is late, whatever the order. False where that cannot be told without forming the batches.
    """
    first, plan, rows = item, track.plan, item.rows
    if queue:
        last = queue.items[-1]
        alike = queue.alike and (item.rows, item.group) == (1, last.group)
        if not alike or (item.floor, item.ceiling) != (last.floor, last.ceiling):
            return False
        rows, first = len(queue) + 1, min(item, queue.items[0], key=edf_order)
    margin = track.margin(settings.admission_sigmas)
    budget = clip_bounds(plan.min_budget, plan.max_budget, (item.floor, item.ceiling))[0]
    size = min(rows, track.largest_batch(track.deadline(first), margin, settings)) if queue else rows
    whole, part = divmod(rows, size)
    seconds = whole * plan.profile.seconds(budget, size) + (plan.profile.seconds(budget, part) if part else 0.0)
    return machine.now_s + machine.residual_s / machine.workers + margin * seconds <= first.deadline_s
