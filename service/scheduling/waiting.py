"""The waiting room: every request between its admission and its dispatch, and the ways out other than a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from service.control.types import QueuedItem, ShedReason
from service.errors import DeadlineExceeded, Overloaded, ServiceError
from service.scheduling.deadlines import DeadlineTimer
from service.scheduling.hosted import Entry, HostedModel

_SHED = {
    ShedReason.DEADLINE: "dropped from the queue under load: the deadline can no longer be met",
    ShedReason.FLOOR: "the wanted quality cannot be had in time; a lower one might",
}


class WaitingRoom:
    """Keeps queues, timer and counters in step: an entry is in its model's queue iff it is here."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._entries: dict[int, Entry] = {}
        self._clock = clock
        self._timer = DeadlineTimer(self._expire, clock)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def add(self, entry: Entry) -> None:
        item = entry.item
        self._entries[item.sequence] = entry
        entry.hosted.queue.add(item)
        if not item.best_effort:
            self._timer.add(item.sequence, item.deadline_s)

    def take(self, items: Sequence[QueuedItem]) -> list[Entry]:
        """Remove a batch of one model for dispatch, in order."""
        entries = [self._entries.pop(item.sequence) for item in items]
        entries[0].hosted.queue.take(items)
        for item in items:
            self._timer.discard(item.sequence)
        return entries

    def defer(self, item: QueuedItem) -> None:
        """Put a later deadline on a best-effort request: what the policy plans with, not what the client is told."""
        entry = self._entries[item.sequence]
        entry.hosted.queue.remove(entry.item)
        entry.item = item
        entry.hosted.queue.add(item)

    def move(self, old: HostedModel, new: HostedModel) -> None:
        """Let what waits for one model run on another that answers to the same name."""
        for item in list(old.queue):
            entry = self._entries[item.sequence]
            old.queue.remove(item)
            old.leave()
            entry.hosted = new
            new.enter()
            new.queue.add(item)

    def shed(self, item: QueuedItem, reason: ShedReason, retry_after_s: float = 1.0) -> None:
        """Answer a request that the policy gave up. One that has left in the meantime is ignored."""
        entry = self._entries.get(item.sequence)
        if entry is None:
            return
        if item.deadline_s <= self._clock():
            error: ServiceError = DeadlineExceeded("the deadline passed in the queue")
        else:
            error = Overloaded(_SHED.get(reason, "dropped from the queue under load"), retry_after_s, reason)
        self.drop(entry, error, reason)

    def drop(self, entry: Entry, error: ServiceError, reason: str) -> None:
        """Answer a waiting request with an error and count it as shed."""
        self._remove(entry)
        if entry.future.cancelled():  # its client left in this very turn of the event loop
            entry.hosted.metrics.count_cancelled(entry.label)
        else:
            entry.hosted.metrics.count_shed(entry.label, reason)
        entry.fail(error)

    def cancel(self, entry: Entry) -> bool:
        """The client went away: forget the request. False if it was not waiting any more."""
        if entry.item.sequence not in self._entries:
            return False
        self._remove(entry)
        entry.hosted.metrics.count_cancelled(entry.label)
        entry.close()
        return True

    def close(self) -> None:
        self._timer.close()

    def _remove(self, entry: Entry) -> None:
        del self._entries[entry.item.sequence]
        entry.hosted.queue.remove(entry.item)
        self._timer.discard(entry.item.sequence)

    def _expire(self, sequence: int) -> None:
        entry = self._entries.get(sequence)
        if entry is not None:
            self.drop(entry, DeadlineExceeded("the deadline passed in the queue"), ShedReason.DEADLINE)
