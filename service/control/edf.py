"""EdfQueue: the requests of one model in order of deadline, ready for the law's O(1) look at any position."""

from __future__ import annotations

import operator
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from service.control.types import QueuedItem


def edf_order(item: QueuedItem) -> tuple[float, int]:
    """Sort key: deadline, then arrival."""
    return item.deadline_s, item.sequence


class EdfQueue:
    """Earliest deadline first, arrival order inside equal deadlines. Also counts what a fast decision needs to know."""

    def __init__(self, items: Iterable[QueuedItem] = ()) -> None:
        self._items: list[QueuedItem] = []
        self._kinds: Counter[tuple[int, float, float, object]] = Counter()
        self.rows = 0
        for item in items:
            self.add(item)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[QueuedItem]:
        return iter(self._items)

    @property
    def items(self) -> Sequence[QueuedItem]:
        """The live list in EDF order: read it, do not keep it."""
        return self._items

    @property
    def alike(self) -> bool:
        """All items have one row and the same floor, ceiling and group: they differ in deadline and priority only."""
        return len(self._kinds) == 1 and self.rows == len(self._items)

    def add(self, item: QueuedItem) -> None:
        items = self._items
        if items and edf_order(item) >= edf_order(items[-1]):
            items.append(item)
        else:
            insort(items, item, key=edf_order)
        self._kinds[kind(item)] += 1
        self.rows += item.rows

    def position(self, item: QueuedItem) -> int:
        """Index of a queued item. Raises KeyError if it is not queued."""
        index = bisect_left(self._items, edf_order(item), key=edf_order)
        if index < len(self._items) and self._items[index].sequence == item.sequence:
            return index
        raise KeyError(item.sequence)

    def insertion_point(self, item: QueuedItem) -> int:
        """Index that `item` would get."""
        return bisect_left(self._items, edf_order(item), key=edf_order)

    def remove(self, item: QueuedItem) -> None:
        """Raises KeyError if the item is not queued."""
        del self._items[self.position(item)]
        self._forget(item)

    def take(self, batch: Sequence[QueuedItem]) -> None:
        """Remove a dispatched batch; quick when it is the head of the queue, as it nearly always is."""
        head = self._items[: len(batch)]
        if len(head) == len(batch) and all(map(operator.is_, head, batch)):
            del self._items[: len(batch)]
            for item in batch:
                self._forget(item)
        else:
            for item in batch:
                self.remove(item)

    def expired(self, now_s: float) -> list[QueuedItem]:
        """Items whose deadline has passed, best-effort ones left out."""
        late = bisect_left(self._items, (now_s, -1), key=edf_order)
        return [item for item in self._items[:late] if not item.best_effort]

    def _forget(self, item: QueuedItem) -> None:
        key = kind(item)
        self._kinds[key] -= 1
        if not self._kinds[key]:
            del self._kinds[key]
        self.rows -= item.rows


def kind(item: QueuedItem) -> tuple[int, float, float, object]:
    """What must be equal for two items to cost the same and share a batch."""
    return item.rows, item.floor, item.ceiling, item.group
