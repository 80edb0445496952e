"""A thread that looks at the memory of a service's processes while a run goes on."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import numpy as np
import psutil

from loadtests import process_tree
from loadtests.records import Memory

LOOK_S = 0.5
FIND_EVERY = 4  # looks: to find the processes costs ten times as much as to ask them


class MemoryWatch:
    """Looks every LOOK_S seconds for as long as the context lasts. pid: of the service's launcher."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def since(self, began: float) -> Memory | None:
        """What was seen from `began` on (time.perf_counter()); None if there was no such process."""
        seen = np.array([(at - began, mib) for at, mib in self._seen if at >= began and mib > 0.0])
        return Memory(seen[:, 0], seen[:, 1]) if seen.size else None

    def _look(self) -> None:
        processes: list[psutil.Process] = []
        looks, ended = 0, False
        while True:
            if looks % FIND_EVERY == 0 or ended:
                processes = process_tree.family(self._pid)
            self._seen.append((time.perf_counter(), process_tree.resident_mib(processes)))
            looks += 1
            if ended:
                return
            ended = self._ended.wait(LOOK_S)
