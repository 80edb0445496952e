"""One small actor that hands operators' set-points to every replica within milliseconds, whatever the load.

Replicas long-poll it from a background task, so a set-point never queues behind requests. A replica that cannot
reach it keeps the last value; a restarted coordinator learns the newest value from the replicas that ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Protocol

from service.errors import InvalidRequest

ACTOR_NAME = "swan-coordinator"
ACTOR_NAMESPACE = "swan"
POLL_S = 20.0
RETRY_S = 0.5


class Mode(StrEnum):
    """What the operator wants of the controller."""

    AUTO = "auto"  # the configured policy decides and acts
    MANUAL = "manual"  # every request gets `budget`, within its own floor and ceiling
    FREEZE = "freeze"  # the budget stays where it is
    SHADOW = "shadow"  # the policy decides and logs, full budget is served


@dataclass(frozen=True, slots=True)
class SetPoints:
    """What operators set for all replicas. version 0 = nobody set anything: the durable `user_config` holds.

    budget: served in mode manual. min_budget, max_budget: rails in every mode.
    draining: ready turns false, new work is refused.
    """

    version: int = 0
    mode: Mode = Mode.AUTO
    budget: float = 1.0
    min_budget: float = 0.0
    max_budget: float = 1.0
    draining: bool = False

    def __post_init__(self) -> None:
        for name in ("budget", "min_budget", "max_budget"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
                raise InvalidRequest(f"{name}: expected a number in [0, 1], got {value!r}")
        if self.budget == 0.0 or self.max_budget == 0.0:
            raise InvalidRequest("budget, max_budget: expected more than 0, got 0")
        if self.min_budget > self.max_budget:
            raise InvalidRequest(f"min_budget: expected at most max_budget ({self.max_budget}), got {self.min_budget}")

    def changed(self, change: Mapping[str, Any]) -> SetPoints:
        """A copy with some fields set. Raises InvalidRequest for an unknown field or a value out of range."""
        known = {field.name for field in fields(self)} - {"version"}
        unknown = sorted(set(change) - known)
        if unknown:
            raise InvalidRequest(f"{unknown[0]}: unknown set-point; known: {', '.join(sorted(known))}")
        values = dict(change)
        if "mode" in values:
            values["mode"] = _mode(values["mode"])
        if not isinstance(values.get("draining", False), bool):
            raise InvalidRequest(f"draining: expected true or false, got {values['draining']!r}")
        return replace(self, **values)


def _mode(value: Any) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        raise InvalidRequest(f"mode: expected one of {', '.join(Mode)}, got {value!r}") from None


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
