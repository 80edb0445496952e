"""EdfQueue: the requests of one model in order of deadline, ready for the law's O(1) look at any position."""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from service.control.kinds import KindIndex, Kinds
from service.control.types import QueuedItem


def edf_order(item: QueuedItem) -> tuple[float, int]:
    """Sort key: deadline, then arrival."""
    return item.deadline_s, item.sequence


class EdfQueue:
    """Earliest deadline first, arrival order inside equal deadlines. Also counts what a fast decision needs to know."""

    def __init__(self, items: Iterable[QueuedItem] = ()) -> None:
        self._items: list[QueuedItem] = []
        self._index = KindIndex()
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
    def kinds(self) -> Kinds | None:
        """What the items cost, if that can be counted: live, as `items`."""
        return self._index.kinds

    @property
    def alike(self) -> bool:
        """Items differ in deadline, arrival and priority only, and have one row each."""
        return self._index.alike

    def kinds_with(self, item: QueuedItem) -> Kinds | None:
        """`kinds` as they would be with one more item at its `insertion_point`."""
        return self._index.with_item(self.insertion_point(item), item)

    def add(self, item: QueuedItem) -> None:
        items = self._items
        index = len(items) if not items or edf_order(item) >= edf_order(items[-1]) else self.insertion_point(item)
        items.insert(index, item)
        self._index.insert(index, item)
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
        self._forget(self.position(item), item)

    def take(self, batch: Sequence[QueuedItem]) -> None:
        """Remove a dispatched batch; quick when it is the head of the queue, as it nearly always is."""
        head = self._items[: len(batch)]
        if len(head) == len(batch) and all(map(operator.is_, head, batch)):
            for item in batch:
                self._forget(0, item)
        else:
            for item in batch:
                self.remove(item)

    def expired(self, now_s: float) -> list[QueuedItem]:
        """Items whose deadline has passed, best-effort ones left out."""
        late = bisect_left(self._items, (now_s, -1), key=edf_order)
        return [item for item in self._items[:late] if not item.best_effort]

    def _forget(self, index: int, item: QueuedItem) -> None:
        del self._items[index]
        self._index.remove(index, item)
        self.rows -= item.rows
