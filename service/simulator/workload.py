"""What arrives: requests with deadlines, priorities, floors, and how fast the machine is meanwhile. Seeded."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.control.types import HIGH, LOW, NORMAL

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Slowdowns:
    """Machine speed over time: from `start_s[i]` on, everything takes `factors[i]` times as long."""

    start_s: tuple[float, ...] = (0.0,)
    factors: tuple[float, ...] = (1.0,)

    def at(self, now_s: float) -> float:
        return self.factors[bisect_right(self.start_s, now_s) - 1]


@dataclass(frozen=True, slots=True)
class Request:
    """One arrival. intensity: compute of this input relative to the mean input (what its gates decide)."""

    model: str
    arrival_s: float
    timeout_s: float
    intensity: float
    priority: int = NORMAL
    floor: float = 0.0
    ceiling: float = 1.0
    best_effort: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order of arrival, and the load they offer as multiples of full-budget capacity per second."""

    name: str
    requests: tuple[Request, ...]
    duration_s: float
    slowdowns: Slowdowns = Slowdowns()


@dataclass(frozen=True, slots=True)
class Traffic:
    """How to dress bare arrival times. timeouts: (seconds, weight); priorities: (class, weight)."""

    model: str
    timeouts: tuple[tuple[float, float], ...]
    priorities: tuple[tuple[int, float], ...] = ((NORMAL, 1.0),)
    pinned_share: float = 0.0
    intensity_sigma: float = 0.2


def equal_deadlines(model: str, deadline_s: float, intensity_sigma: float = 0.2) -> Traffic:
    return Traffic(model, ((deadline_s, 1.0),), intensity_sigma=intensity_sigma)


def mixed_deadlines(model: str, deadline_s: float, intensity_sigma: float = 0.2) -> Traffic:
    """Deadlines of 0.6, 1 and 4 times the default, three priority classes, 2 % pinned to full quality."""
    return Traffic(
        model,
        ((0.6 * deadline_s, 0.2), (deadline_s, 0.5), (4 * deadline_s, 0.3)),
        ((HIGH, 0.2), (NORMAL, 0.6), (LOW, 0.2)),
        pinned_share=0.02,
        intensity_sigma=intensity_sigma,
    )


def dress(arrivals_s: Floats, traffic: Traffic, rng: np.random.Generator) -> tuple[Request, ...]:
    """Give every arrival time a deadline, a priority, a floor and an input."""
    n = len(arrivals_s)
    timeouts = _choose(traffic.timeouts, n, rng)
    priorities = _choose(traffic.priorities, n, rng)
    pinned = rng.random(n) < traffic.pinned_share
    sigma = traffic.intensity_sigma
    intensity = np.exp(rng.normal(-sigma * sigma / 2, sigma, n))
    return tuple(
        Request(traffic.model, float(t), float(d), float(x), int(p), 1.0 if pin else 0.0)
        for t, d, x, p, pin in zip(arrivals_s, timeouts, intensity, priorities, pinned, strict=True)
    )


def _choose(options: Sequence[tuple[float, float]], n: int, rng: np.random.Generator) -> Floats:
    values = np.array([value for value, _ in options], dtype=np.float64)
    weights = np.array([weight for _, weight in options], dtype=np.float64)
    return values[rng.choice(len(values), size=n, p=weights / weights.sum())]


def poisson(rate: Callable[[Floats], Floats], peak: float, duration_s: float, rng: np.random.Generator) -> Floats:
    """Arrivals of a Poisson process whose rate (per second) varies with time, by thinning at `peak`."""
    n = rng.poisson(peak * duration_s)
    times = np.sort(rng.random(n) * duration_s)
    return times[rng.random(n) * peak < rate(times)]
