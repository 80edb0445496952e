"""One small actor that hands operators' set-points to every replica within milliseconds, whatever the load.

Replicas long-poll it from a background task, so a set-point never queues behind requests. A replica that cannot
reach it keeps the last value; a restarted coordinator learns the newest value from the replicas that ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from service.control.set_points import SetPoints
from service.errors import InvalidRequest

ACTOR_NAME = "swan-coordinator"
ACTOR_NAMESPACE = "swan"
POLL_S = 20.0
RETRY_S = 0.5


class Coordinator:
    """The actor's body, free of Ray. Every method runs on one event loop."""

    def __init__(self) -> None:
        self._current = SetPoints()
        self._changed = asyncio.Condition()

    async def current(self) -> SetPoints:
        return self._current

    async def publish(self, change: Mapping[str, Any]) -> SetPoints:
        """Apply a change and wake every waiting replica. Raises InvalidRequest for a bad change."""
        updated = self._current.changed(change)
        async with self._changed:
            self._current = replace(updated, version=self._current.version + 1)
            self._changed.notify_all()
        return self._current

    async def wait(self, known: SetPoints, timeout_s: float = POLL_S) -> SetPoints:
        """Return as soon as the set-points differ from `known`, at the latest after `timeout_s`."""
        async with self._changed:
            if known.version > self._current.version:  # we restarted and forgot; the replica did not
                self._current = known
                self._changed.notify_all()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait_for(lambda: self._current != known)
            except TimeoutError:
                pass
            return self._current


class SetPointSource(Protocol):
    """Where a replica asks for set-points: the actor, or the object itself where there is no Ray."""

    async def current(self) -> SetPoints: ...

    async def publish(self, change: Mapping[str, Any]) -> SetPoints: ...

    async def wait(self, known: SetPoints) -> SetPoints: ...


async def follow(source: SetPointSource, apply: Callable[[SetPoints], None], retry_s: float = RETRY_S) -> None:
    """Apply every change until cancelled. While the source is away the last value stays."""
    known = SetPoints()
    while True:
        try:
            latest = await source.wait(known)
        except Exception:  # any failure of the actor or its node means the same here: ask again
            await asyncio.sleep(retry_s)
            continue
        if latest != known:
            known = latest
            apply(known)


class ActorSource:
    """The coordinator as a named Ray actor; found or created at the first use and again after each failure."""

    def __init__(self) -> None:
        self._actor: Any = None

    async def current(self) -> SetPoints:
        return await self._call("current")

    async def publish(self, change: Mapping[str, Any]) -> SetPoints:
        return await self._call("publish", dict(change))

    async def wait(self, known: SetPoints) -> SetPoints:
        return await self._call("wait", known)

    async def _call(self, method: str, *arguments: Any) -> SetPoints:
        from ray.exceptions import RayTaskError

        try:
            if self._actor is None:
                self._actor = await asyncio.to_thread(coordinator_actor)
            call: Callable[..., Awaitable[SetPoints]] = getattr(self._actor, method).remote
            return await call(*arguments)
        except RayTaskError as error:
            if isinstance(error.cause, InvalidRequest):
                raise InvalidRequest(error.cause.message) from None
            raise
        except Exception:
            self._actor = None
            raise


def coordinator_actor() -> Any:
    """Handle of the cluster's one coordinator, which is started if there is none."""
    import ray

    options = {"name": ACTOR_NAME, "namespace": ACTOR_NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    return ray.remote(Coordinator).options(num_cpus=0, max_restarts=-1, max_concurrency=1000, **options).remote()
