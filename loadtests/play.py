"""Play a scenario: measure capacity first, then blocks of each policy in shuffled order, and judge what came out."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from loadtests.capacity import Capacity, measure
from loadtests.generator import Progress, client_was_the_bottleneck
from loadtests.machine import MachineNoise
from loadtests.outcomes import Outcomes, outcomes_of
from loadtests.records import Memory, Run, Summary, mean, summarise
from loadtests.scenarios import Scenario, Unit
from loadtests.session import Session, Variant
from loadtests.statistics import sleep_jitter_p99_s
from loadtests.target import Target

Say = Callable[[str], None]
ADAPTIVE, FIXED = "adaptive", "fixed-1.0"
SETPOINTS = {ADAPTIVE: {"mode": "auto"}, FIXED: {"mode": "manual", "budget": 1.0}}
BELOW_ANY_FLOOR = 0.001  # a budget below the table is served at its smallest


@dataclass(frozen=True, slots=True)
class Block:
    """One policy on one seed of the schedule."""

    policy: str
    seed: int
    run: Run
    summary: Summary


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that was done to the service, seconds after a run began."""

    at_s: float
    says: str


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What was done in a chaos scenario. replicas: before; gone: of those, at the end; new: others, at the end.

    trouble_s: seconds from the first mark to the last request sent that was not served.
    """

    marks: tuple[Mark, ...]
    replicas: int
    gone: int
    new: int
    trouble_s: float


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What a scenario's load and verdict are multiples of, measured first. full_accuracy: at full quality, no load."""

    deadline_s: float
    full_accuracy: float
    capacity: Capacity


@dataclass(frozen=True, slots=True)
class Played:
    """A scenario's result. noisy: why the verdict should not be trusted, empty when it can be.

    disturbance: of a chaos scenario.
    """

    scenario: Scenario
    model: str
    protocol: str
    yardstick: Yardstick
    blocks: tuple[Block, ...]
    noisy: tuple[str, ...]
    disturbance: Disturbance | None = None

    def of(self, policy: str) -> list[Block]:
        return [block for block in self.blocks if block.policy == policy]

    def average(self, policy: str, field: str) -> float:
        """Over the blocks that have this figure: where nobody was refused, no refusal took any time."""
        return mean(np.array([getattr(block.summary, field) for block in self.of(policy)]))

    def memories(self, policy: str) -> list[Memory]:
        """Of the blocks in which it was measured."""
        return [item.run.memory for item in self.of(policy) if item.run.memory is not None]

    def outcomes(self, policy: str) -> Outcomes:
        """Of all blocks of a policy together."""
        return outcomes_of(block.run for block in self.of(policy))


@dataclass(frozen=True, slots=True)
class Options:
    """rounds: blocks of each policy. deadline_s None = ten times the unloaded full-quality p50, at least 25 ms.

    target: the service; None or without an admin plane, only the policy that it has is played.
    """

    deadline_s: float | None = None
    rounds: int = 2
    seed: int = 1
    model: str = ""
    protocol: str = "http"
    target: Target | None = None

    @property
    def controllable(self) -> bool:
        return self.target is not None and self.target.controllable


async def unloaded_deadline_s(session: Session) -> float:
    """A deadline that an idle machine meets with ease: max(10 x unloaded p50, 5 x the machine's wake-up jitter)."""
    variant = Variant(10.0, {"quality": "full"})
    run = await session.run(np.arange(100) * 0.02, (variant,))
    p50 = summarise(run).p50_ms / 1e3
    return round(max(10.0 * p50, 5.0 * sleep_jitter_p99_s(), 0.025), 3)


async def play(
    scenario: Scenario, session: Session, options: Options, say: Say, progress: Progress | None = None
) -> Played:
    """Measure, play, judge. The target's set-point is back to `auto` afterwards."""
    machine = MachineNoise()
    policies = [ADAPTIVE, FIXED] if scenario.compare and options.controllable else [ADAPTIVE]
    blocks: list[Block] = []
    try:
        yardstick = await measured(scenario, session, options, say)
        order = [(policy, round_) for round_ in range(options.rounds) for policy in policies]
        random.Random(options.seed).shuffle(order)
        for policy, round_ in order:
            set_policy(policy, options)
            machine.look()
            say(f"{scenario.name}: {policy}, block {len(blocks) + 1} of {len(order)}")
            blocks.append(await block(scenario, session, yardstick, (policy, options.seed + round_), progress))
            machine.look()
    finally:
        set_policy(ADAPTIVE, options)
    reasons = noise(blocks, machine, yardstick.deadline_s)
    return Played(scenario, options.model, options.protocol, yardstick, tuple(blocks), tuple(reasons))


async def measured(scenario: Scenario, session: Session, options: Options, say: Say) -> Yardstick:
    """Full quality, the deadline and the capacity, on the service as it is."""
    full_accuracy = await session.reference()
    deadline_s = options.deadline_s or await unloaded_deadline_s(session)
    say(f"deadline {deadline_s * 1e3:.0f} ms; full quality scores {full_accuracy:.4f} without load")
    return Yardstick(deadline_s, full_accuracy, await unit_capacity(scenario, session, deadline_s, say))


def set_policy(policy: str, options: Options) -> None:
    if options.target is not None and options.controllable:
        options.target.control(SETPOINTS[policy])


async def unit_capacity(scenario: Scenario, session: Session, deadline_s: float, say: Say) -> Capacity:
    """Capacity at full budget or at the floor, by asking for that budget in every request: needs no admin plane."""
    if scenario.unit is Unit.FULL:
        say("measuring capacity at full budget")
        return await measure(session, Variant(deadline_s, {"quality": "full"}), say)
    say("measuring capacity at the floor budget")
    return await measure(session, Variant(deadline_s, {"quality": BELOW_ANY_FLOOR}), say)


async def block(
    scenario: Scenario, session: Session, yardstick: Yardstick, what: tuple[str, int], progress: Progress | None
) -> Block:
    """Play the scenario's load once. what: the policy and the schedule's seed."""
    (policy, seed), deadline_s = what, yardstick.deadline_s
    variants = tuple(Variant(kind.patience * deadline_s, kind.asks) for kind in scenario.mix)
    times = scenario.load.times(yardstick.capacity.rate, seed)
    run = await session.run(times, variants, seed, progress)
    return Block(policy, seed, run, summarise(run, end=scenario.load.length_s))


def noise(blocks: list[Block], machine: MachineNoise, deadline_s: float) -> list[str]:
    """Reasons not to believe a verdict from this machine at this time."""
    late = sorted({reason for item in blocks if (reason := client_was_the_bottleneck(item.run))})
    return [*late, *machine.reasons(deadline_s)]
