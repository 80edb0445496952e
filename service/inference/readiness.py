"""Whether the service takes requests: off until warm, off again while draining; watchers hear of every change."""

from __future__ import annotations

import asyncio


class Readiness:
    """A switch on the event loop of one replica."""

    def __init__(self, ready: bool = False) -> None:
        self._ready = ready
        self._changed = asyncio.Event()

    def __bool__(self) -> bool:
        return self._ready

    def set(self, ready: bool) -> None:
        if ready != self._ready:
            self._ready = ready
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    @property
    def next_change(self) -> asyncio.Event:
        """Set at the next change; take it before looking at the value, and no change is missed."""
        return self._changed
