"""The highest rate a service sustains within its SLO: a closed loop brackets it, bisection of open loops finds it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from loadtests.records import Summary, summarise
from loadtests.schedules import arrivals, constant
from loadtests.session import Session, Variant

Say = Callable[[str], None]
TARGET_ON_TIME = 0.99
RAISES = 4  # of the highest rate, while it holds


@dataclass(frozen=True, slots=True)
class Probe:
    rate: float
    summary: Summary

    @property
    def held(self) -> bool:
        return self.summary.on_time_ratio >= TARGET_ON_TIME


@dataclass(frozen=True, slots=True)
class Capacity:
    """rate: requests a second; closed_loop: what the same service answers when never idle; probes: how it was found."""

    rate: float
    closed_loop: float
    probes: tuple[Probe, ...]

    @property
    def best(self) -> Summary | None:
        held = [probe for probe in self.probes if probe.held]
        return max(held, key=lambda probe: probe.rate).summary if held else None


async def bisect(
    low: float, high: float, probe: Callable[[float], Awaitable[Probe]], rounds: int
) -> tuple[float, tuple[Probe, ...]]:
    """Largest rate in (low, high] whose probe held; `low` is taken to hold. Raises `high` first while it holds.

    A rate is too high if it fails twice in a row: one pause of a shared machine must not halve a server's figure.
    """
    probes: list[Probe] = []

    async def held(rate: float) -> bool:
        for _ in range(2):
            probes.append(await probe(rate))
            if probes[-1].held:
                return True
        return False

    for _ in range(RAISES):
        if not await held(high):
            break
        low, high = high, high * 1.5
    else:
        return low, tuple(probes)
    for _ in range(rounds):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if await held(middle) else (low, middle)
    return low, tuple(probes)


async def measure(session: Session, variant: Variant, say: Say, probe_s: float = 4.0, rounds: int = 4) -> Capacity:
    """Capacity of one service for one kind of request: at least 99 % answered within the deadline."""
    closed = await session.saturate(variant, concurrency=16, duration_s=2.0)
    say(f"closed loop: {closed:.0f} answers a second")
    if closed <= 0.0:
        return Capacity(0.0, 0.0, ())
    count = 0

    async def probe(rate: float) -> Probe:
        nonlocal count
        count += 1
        run = await session.run(arrivals(constant(rate), probe_s, seed=count), (variant,), seed=count)
        result = Probe(rate, summarise(run, start=0.25 * probe_s, end=probe_s))
        say(f"{rate:.0f}/s: {result.summary.on_time_ratio:.1%} on time, p99 {result.summary.p99_ms:.1f} ms")
        return result

    rate, probes = await bisect(0.0, 0.9 * closed, probe, rounds)
    return Capacity(rate, closed, probes)
