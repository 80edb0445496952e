"""Cancels the work of a client that went away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

from service.api.http_body import Receive
from service.errors import Cancelled

# Most answers are out before this: they pay for one timer handle and no task. Who waits longer is watched.
GRACE_S = 0.02


class CancelOnDisconnect:
    """Context manager around a request's work, once its body has been read: a disconnect ends it with Cancelled."""

    def __init__(self, receive: Receive, grace_s: float = GRACE_S) -> None:
        self._receive = receive
        self._grace_s = grace_s
        self._gone = False
        self._watch: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Task[Any] | None = None

    def __enter__(self) -> None:
        self._work = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._grace_s, self._start)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._gone and isinstance(error, asyncio.CancelledError) and self._work is not None:
            self._work.uncancel()
            raise Cancelled("the client went away") from None

    def _start(self) -> None:
        coroutine: Coroutine[Any, Any, None] = self._wait()
        self._watch = asyncio.get_running_loop().create_task(coroutine)

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if self._work is not None:
            self._work.cancel()
