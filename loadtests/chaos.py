"""Kill or roll replicas under load: every request must still get an answer, and the service must be whole again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
import psutil

from loadtests import schedules
from loadtests.answers import Outcome
from loadtests.generator import Progress
from loadtests.machine import MachineNoise
from loadtests.play import (
    ADAPTIVE,
    Block,
    Disturbance,
    Mark,
    Options,
    Played,
    Say,
    block,
    measured,
    noise,
)
from loadtests.records import Recorder
from loadtests.scenarios import REPLICA_KILL, Scenario, Shaped
from loadtests.session import Session

REPLICA_MARK = "ServeReplica"
DISTURBED_AFTER_S = 5.0
LOOK_S = 0.1  # between two looks at whether the old replicas have gone


class NoReplica(RuntimeError):
    """No replica process was found below the service's own process: it runs on another machine, or without Ray."""


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


Tell = Callable[[str], None]
Act = Callable[[int, Sequence[psutil.Process], Tell], Awaitable[None]]


async def kill_one_replica(pid: int, replicas: Sequence[psutil.Process], tell: Tell) -> None:
    """SIGKILL to one replica of the service."""
    tell("replica killed")
    replicas[0].kill()


async def roll_replicas(pid: int, replicas: Sequence[psutil.Process], tell: Tell) -> None:
    """SIGHUP to the service: it replaces its replicas one after the other. The update ends when no old one is left."""
    tell("update began")
    psutil.Process(pid).send_signal(signal.SIGHUP)
    while any(runs(process) for process in replicas):  # noqa: ASYNC110 - another program's processes raise no event
        await asyncio.sleep(LOOK_S)
    tell("update ended")


@dataclass(frozen=True, slots=True)
class Chaos:
    """A scenario in which `act` disturbs the service."""

    scenario: Scenario
    act: Act


CHAOS: dict[str, Chaos] = {
    chaos.scenario.name: chaos
    for chaos in (
        Chaos(
            Scenario(
                REPLICA_KILL,
                "0.5x of the full-budget capacity of two replicas; one is killed",
                Shaped(lambda unit, length: schedules.constant(0.5 * unit), length_s=20.0),
                compare=False,
            ),
            kill_one_replica,
        ),
        Chaos(
            Scenario(
                "rolling-update",
                "0.5x of the full-budget capacity of two replicas; both are replaced",
                Shaped(lambda unit, length: schedules.constant(0.5 * unit), length_s=60.0),
                compare=False,
            ),
            roll_replicas,
        ),
    )
}


def runs(process: psutil.Process) -> bool:
    """Whether it still does; one that has ended and that nobody has reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Disturber:
    """Acts on a service's replicas once a run has lasted DISTURBED_AFTER_S. Raises NoReplica if there are none.

    `watch` goes to the run as its progress; marks are on the run's own clock.
    """

    def __init__(self, pid: int, act: Act, say: Say, progress: Progress | None = None) -> None:
        self.before = replicas_of(pid)
        if not self.before:
            raise NoReplica(f"no process named {REPLICA_MARK} below process {pid}")
        self.marks: list[Mark] = []
        self._pid, self._act, self._say, self._progress = pid, act, say, progress
        self._began_s = 0.0
        self._acting: asyncio.Future[None] | None = None

    def watch(self, now_s: float, recorder: Recorder) -> None:
        """now_s: since the run began."""
        self._began_s = time.perf_counter() - now_s
        if self._acting is None and now_s >= DISTURBED_AFTER_S:
            self._acting = asyncio.ensure_future(self._act(self._pid, self.before, self._tell))
        if self._progress is not None:
            self._progress(now_s, recorder)

    async def finish(self, run: Block) -> Disturbance:
        """What became of it by the end of the run. Raises what acting raised."""
        if self._acting is not None:
            if not self._acting.done():
                self._acting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._acting
        known = {process.pid for process in self.before}
        return Disturbance(
            tuple(self.marks),
            replicas=len(known),
            gone=sum(not runs(process) for process in self.before),
            new=sum(process.pid not in known for process in replicas_of(self._pid)),
            trouble_s=trouble_s(run, self.marks),
        )

    def _tell(self, says: str) -> None:
        self.marks.append(Mark(time.perf_counter() - self._began_s, says))
        self._say(f"{says} at {self.marks[-1].at_s:.1f} s")


def trouble_s(played: Block, marks: Sequence[Mark]) -> float:
    """Seconds from the first mark to the last request sent that was not served; 0.0 if all were."""
    sent = played.run.intended[played.run.outcome != Outcome.OK]
    return max(0.0, float(np.max(sent)) - marks[0].at_s) if marks and sent.size else 0.0


async def disturb(
    chaos: Chaos, session: Session, pid: int, options: Options, say: Say, progress: Progress | None = None
) -> Played:
    """Measure capacity, then constant load during which the service with this process id is disturbed."""
    machine = MachineNoise()
    scenario = chaos.scenario
    yardstick = await measured(scenario, session, options, say)
    disturber = Disturber(pid, chaos.act, say, progress)
    machine.look()
    say(f"{scenario.name}: {scenario.says}, {scenario.load.length_s:.0f} s")
    item = await block(scenario, session, yardstick, (ADAPTIVE, options.seed), disturber.watch)
    disturbance = await disturber.finish(item)
    machine.look()
    reasons = tuple(noise([item], machine, yardstick.deadline_s))
    return Played(scenario, options.model, options.protocol, yardstick, (item,), reasons, disturbance)
