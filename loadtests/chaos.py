"""Kill or roll replicas under load: every request must still get an answer, and the service must be whole again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psutil

from loadtests.answers import Outcome
from loadtests.records import Run, Summary, summarise
from loadtests.schedules import arrivals, constant
from loadtests.session import Session, Variant

Say = Callable[[str], None]
REPLICA_MARK = "ServeReplica"
DISTURBED_AFTER_S = 5.0


class NoReplica(RuntimeError):
    """No replica process was found below the service's own process: it runs on another machine, or without Ray."""


@dataclass(frozen=True, slots=True)
class Disturbed:
    """unanswered: requests without any answer. failed: answered with an error. replaced: a new replica came up."""

    run: Run
    summary: Summary
    unanswered: int
    failed: int
    replaced: bool
    recovered_after_s: float


def replicas_of(pid: int) -> list[psutil.Process]:
    """Replica processes of a service, by its launcher's process id."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if REPLICA_MARK in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


async def kill_one_replica(pid: int, say: Say) -> None:
    """SIGKILL to one replica of the service. Raises NoReplica."""
    replicas = replicas_of(pid)
    if not replicas:
        raise NoReplica(f"no process named {REPLICA_MARK} below process {pid}")
    say(f"killing replica process {replicas[0].pid} of {len(replicas)}")
    replicas[0].kill()


async def roll_replicas(pid: int, say: Say) -> None:
    """SIGHUP to the service: it replaces its replicas one after the other."""
    say("asking the service to replace its replicas (SIGHUP)")
    psutil.Process(pid).send_signal(signal.SIGHUP)


DISTURBANCES: dict[str, tuple[Callable[[int, Say], Awaitable[None]], float]] = {
    "replica-kill": (kill_one_replica, 20.0),
    "rolling-update": (roll_replicas, 60.0),
}


async def disturb(session: Session, pid: int, rate: float, variant: Variant, what: str, say: Say) -> Disturbed:
    """Constant load; after five seconds one of DISTURBANCES happens. Raises NoReplica."""
    act, duration_s = DISTURBANCES[what]
    before = {process.pid for process in replicas_of(pid)}
    times = arrivals(constant(rate), duration_s, seed=5)
    task = asyncio.create_task(session.run(times, (variant,), seed=5))
    await asyncio.sleep(DISTURBED_AFTER_S)
    await act(pid, say)
    run = await task
    bad = run.outcome != Outcome.OK
    lost = run.outcome == Outcome.LOST
    last_bad = float(run.intended[bad].max()) if bad.any() else DISTURBED_AFTER_S
    return Disturbed(
        run=run,
        summary=summarise(run, end=duration_s),
        unanswered=int(lost.sum()),
        failed=int(bad.sum() - lost.sum()),
        replaced=any(process.pid not in before for process in replicas_of(pid)),
        recovered_after_s=max(0.0, last_bad - DISTURBED_AFTER_S),
    )
