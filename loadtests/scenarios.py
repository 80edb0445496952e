"""What is played: traffic shapes in multiples of measured capacity, and what each is meant to show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from loadtests import schedules
from loadtests.schedules import Shape

REPLICA_KILL = "replica-kill"  # judged by its own rule, see verdict


class Unit(StrEnum):
    """What 1.0 of load means: the capacity measured at full budget, or at the floor."""

    FULL = "full"
    FLOOR = "floor"


@dataclass(frozen=True, slots=True)
class Scenario:
    """shape: (rate of one unit, block seconds) -> requests a second over time. cv2: burstiness of the gaps.

    mixed: half of the requests may take four times as long. compare: also play it with the budget fixed at 1.
    """

    name: str
    says: str
    shape: Callable[[float, float], Shape]
    unit: Unit = Unit.FULL
    block_s: float = 12.0
    cv2: float = 1.0
    mixed: bool = False
    compare: bool = True


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "smoke",
            "a fifth of full capacity: everything on time at full quality",
            lambda unit, length: schedules.constant(0.2 * unit),
            block_s=4.0,
            compare=False,
        ),
        Scenario(
            "step",
            "0.6x, then 2x of full-budget capacity, then 0.6x",
            lambda unit, length: schedules.step(0.6 * unit, 2.0 * unit, length / 4, 3 * length / 4),
        ),
        Scenario(
            "spike",
            "0.5x with spikes of 2x of full-budget capacity, two seconds each",
            lambda unit, length: schedules.spikes(0.5 * unit, 2.0 * unit, length / 2, 2.0),
        ),
        Scenario(
            "bursts",
            "1x of full-budget capacity on average, in bursts (CV^2 = 8)",
            lambda unit, length: schedules.constant(unit),
            cv2=8.0,
        ),
        Scenario(
            "overload",
            "2x, then 3x of what even the floor budget can do",
            lambda unit, length: schedules.step(3.0 * unit, 2.0 * unit, 0.0, length / 2),
            unit=Unit.FLOOR,
            compare=False,
        ),
        Scenario(
            "mixed-deadlines",
            "1.5x of full-budget capacity; half of the requests may take four times as long",
            lambda unit, length: schedules.constant(1.5 * unit),
            mixed=True,
        ),
        Scenario(
            "soak",
            "a minute of waves between 0.3x and 1.5x: memory must stay flat",
            lambda unit, length: schedules.sine(0.3 * unit, 1.5 * unit, 15.0),
            block_s=60.0,
            compare=False,
        ),
    )
}
