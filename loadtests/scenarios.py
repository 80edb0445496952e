"""What is played: traffic shapes in multiples of measured capacity, and what each is meant to show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np

from loadtests import schedules
from loadtests.schedules import Shape, Times
from service.types import ParameterValue

REPLICA_KILL, SOAK = "replica-kill", "soak"  # judged by rules of their own, see verdict


class Unit(StrEnum):
    """What 1.0 of load means: the capacity measured at full budget, or at the floor."""

    FULL = "full"
    FLOOR = "floor"


class Load(Protocol):
    """When requests are sent, given the rate of one unit of load (a second)."""

    @property
    def length_s(self) -> float: ...

    def times(self, unit_rps: float, seed: int) -> Times: ...

    def rate(self, unit_rps: float, at: Times) -> Times:
        """Requests a second that are offered at these seconds."""
        ...


@dataclass(frozen=True, slots=True)
class Shaped:
    """shape: (rate of one unit, length) -> requests a second over time. cv2: burstiness of the gaps."""

    shape: Callable[[float, float], Shape]
    length_s: float = 12.0
    cv2: float = 1.0

    def times(self, unit_rps: float, seed: int) -> Times:
        return schedules.arrivals(self.shape(unit_rps, self.length_s), self.length_s, seed, self.cv2)

    def rate(self, unit_rps: float, at: Times) -> Times:
        shape = self.shape(unit_rps, self.length_s)
        return np.array([shape(float(t)) for t in at])


@dataclass(frozen=True, slots=True)
class Recorded:
    """A trace at its own rate, whatever the service can do. sent: seconds from its start, ascending, not empty."""

    sent: Times

    @property
    def length_s(self) -> float:
        return float(self.sent[-1]) + 1e-3

    def times(self, unit_rps: float, seed: int) -> Times:
        return self.sent

    def rate(self, unit_rps: float, at: Times) -> Times:
        """Of the whole second around."""
        counts = np.bincount(self.sent.astype(int), minlength=int(self.length_s) + 1)
        return np.asarray(counts[at.astype(int)], np.float64)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request in a mix. patience: its deadline in deadlines; asks: parameters beside the deadline."""

    name: str
    patience: float = 1.0
    asks: Mapping[str, ParameterValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    """mix: each arrival is one of these at random. compare: also play it with the budget fixed at 1."""

    name: str
    says: str
    load: Load
    unit: Unit = Unit.FULL
    mix: tuple[Kind, ...] = (Kind("all"),)
    compare: bool = True


MIX = (
    Kind("in a hurry"),
    Kind("patient", patience=4.0),
    Kind("first in line", asks={"priority": 1}),
    Kind("insists on a budget of 0.8", patience=4.0, asks={"quality_min": 0.8}),
)
SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "smoke",
            "a fifth of full capacity: everything on time at full quality",
            Shaped(lambda unit, length: schedules.constant(0.2 * unit), length_s=4.0),
            compare=False,
        ),
        Scenario(
            "step",
            "0.6x, then 2x of full-budget capacity, then 0.6x",
            Shaped(lambda unit, length: schedules.step(0.6 * unit, 2.0 * unit, length / 4, 3 * length / 4)),
        ),
        Scenario(
            "spike",
            "0.5x with spikes of 2x of full-budget capacity, two seconds each",
            Shaped(lambda unit, length: schedules.spikes(0.5 * unit, 2.0 * unit, length / 2, 2.0)),
        ),
        Scenario(
            "bursts",
            "1x of full-budget capacity on average, in bursts (CV^2 = 8)",
            Shaped(lambda unit, length: schedules.constant(unit), cv2=8.0),
        ),
        Scenario(
            "overload",
            "2x, then 3x of what even the floor budget can do",
            Shaped(lambda unit, length: schedules.step(3.0 * unit, 2.0 * unit, 0.0, length / 2)),
            unit=Unit.FLOOR,
            compare=False,
        ),
        Scenario(
            "mixed-deadlines",
            "1.5x of full-budget capacity; half may take four times as long, some go first, some insist on quality",
            Shaped(lambda unit, length: schedules.constant(1.5 * unit)),
            mix=MIX,
        ),
        Scenario(
            SOAK,
            "a minute of waves between 0.3x and 1.5x: memory must stay flat",
            Shaped(lambda unit, length: schedules.sine(0.3 * unit, 1.5 * unit, 15.0), length_s=60.0),
            compare=False,
        ),
    )
}


def traced(sent: Times, name: str) -> Scenario:
    """The arrivals of a recorded trace. Raises ValueError if there are none."""
    if not sent.size:
        raise ValueError(f"{name} holds no arrivals")
    return Scenario("trace", f"{sent.size} arrivals as {name} has them", Recorded(sent))
