"""Kill a replica under load: every request must still get an answer, and the service must come back by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from loadtests.answers import Outcome
from loadtests.records import Run, Summary, summarise
from loadtests.schedules import arrivals, constant
from loadtests.session import Session, Variant

Say = Callable[[str], None]
REPLICA_MARK = "ServeReplica"


class NoReplica(RuntimeError):
    """No replica process was found below the service's own process: it runs on another machine, or without Ray."""


@dataclass(frozen=True, slots=True)
class Killed:
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


async def kill_one_replica(
    session: Session, pid: int, rate: float, variant: Variant, say: Say, duration_s: float = 20.0
) -> Killed:
    """Constant load for `duration_s`; after a quarter of it one replica gets SIGKILL. Raises NoReplica."""
    before = replicas_of(pid)
    if not before:
        raise NoReplica(f"no process named {REPLICA_MARK} below process {pid}")
    times = arrivals(constant(rate), duration_s, seed=5)
    task = asyncio.create_task(session.run(times, (variant,), seed=5))
    await asyncio.sleep(duration_s / 4)
    say(f"killing replica process {before[0].pid} of {len(before)}")
    before[0].kill()
    run = await task
    known = {process.pid for process in before}
    replaced = any(process.pid not in known for process in replicas_of(pid))
    bad = run.outcome != Outcome.OK
    last_bad = float(run.intended[bad].max()) if bad.any() else duration_s / 4
    return Killed(
        run=run,
        summary=summarise(run, end=duration_s),
        unanswered=int((run.outcome == Outcome.LOST).sum()),
        failed=int(bad.sum() - (run.outcome == Outcome.LOST).sum()),
        replaced=replaced,
        recovered_after_s=max(0.0, last_bad - duration_s / 4),
    )
