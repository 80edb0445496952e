"""Kinds: a code per queued item, so that a decision counts what a batch would cost without looking at its items."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from service.control.types import QueuedItem

MAX_KINDS = 12  # more would make counting slower than looking
_UNCODED = 255


class Kinds(NamedTuple):
    """What a lane knows of its items when all have one row and may share a batch.

    codes: one per item, in the order of the items. bounds: code -> (floor, ceiling), for every code that occurs.
    """

    codes: bytes | bytearray
    bounds: dict[int, tuple[float, float]]


class KindIndex:
    """Keeps a code per position of a queue. The owner tells it of every insertion and removal."""

    def __init__(self) -> None:
        self._codes = bytearray()
        self._code_of: dict[tuple[float, float], int] = {}
        self._bounds: dict[int, tuple[float, float]] = {}
        self._counts: Counter[int] = Counter()
        self._shapes: Counter[tuple[int, object]] = Counter()

    def insert(self, index: int, item: QueuedItem) -> None:
        code = self._code(item)
        self._codes.insert(index, code)
        self._counts[code] += 1
        self._shapes[item.rows, item.group] += 1

    def remove(self, index: int, item: QueuedItem) -> None:
        code = self._codes.pop(index)
        self._counts[code] -= 1
        if not self._counts[code] and code != _UNCODED:
            del self._code_of[self._bounds.pop(code)]
        shape = item.rows, item.group
        self._shapes[shape] -= 1
        if not self._shapes[shape]:
            del self._shapes[shape]

    @property
    def kinds(self) -> Kinds | None:
        """None if items of several rows or groups are queued, or more kinds than it pays to count."""
        if not self._uniform() or self._counts[_UNCODED]:
            return None
        return Kinds(self._codes, self._bounds)

    @property
    def alike(self) -> bool:
        """All items have one row and the same bounds and group."""
        return len(self._bounds) == 1 and not self._counts[_UNCODED] and self._uniform()

    def with_item(self, index: int, item: QueuedItem) -> Kinds | None:
        """`kinds` as they would be after `insert`; changes nothing."""
        bounds = item.floor, item.ceiling
        fits = item.rows == 1 and (not self._shapes or (item.rows, item.group) in self._shapes)
        if not fits or (self._shapes and self.kinds is None):
            return None
        code = self._code_of.get(bounds)
        known = self._bounds
        if code is None:
            if len(known) >= MAX_KINDS:
                return None
            code = self._free_code()
            known = {**known, code: bounds}
        codes = bytearray(self._codes)
        codes.insert(index, code)
        return Kinds(codes, known)

    def _code(self, item: QueuedItem) -> int:
        bounds = item.floor, item.ceiling
        code = self._code_of.get(bounds)
        if code is None:
            if len(self._code_of) >= MAX_KINDS:
                return _UNCODED
            code = self._code_of[bounds] = self._free_code()
            self._bounds[code] = bounds
        return code

    def _free_code(self) -> int:
        return next(code for code in range(MAX_KINDS + 1) if code not in self._bounds)

    def _uniform(self) -> bool:
        return len(self._shapes) == 1 and next(iter(self._shapes))[0] == 1
