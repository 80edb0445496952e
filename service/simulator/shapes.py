"""The traffic shapes: arrival times over a minute, as multiples of the capacity at full budget."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from service.simulator.workload import Floats, Slowdowns, Traffic, Workload, dress, poisson

DURATION_S = 60.0
SLOW_FACTOR = 1.8

Shape = Callable[[float, float, np.random.Generator], Floats]


def step(capacity: float, duration_s: float, rng: np.random.Generator) -> Floats:
    """0.6x, then 2x in the middle third, then 0.6x."""

    def rate(t: Floats) -> Floats:
        inside = (t >= duration_s / 3) & (t < 2 * duration_s / 3)
        return capacity * np.where(inside, 2.0, 0.6)

    return poisson(rate, 2.0 * capacity, duration_s, rng)


def ramp(capacity: float, duration_s: float, rng: np.random.Generator) -> Floats:
    """0.3x to 3x in the first two thirds, then back down."""

    def rate(t: Floats) -> Floats:
        return capacity * np.interp(t / duration_s, [0.0, 2 / 3, 1.0], [0.3, 3.0, 0.3])

    return poisson(rate, 3.0 * capacity, duration_s, rng)


def sine(capacity: float, duration_s: float, rng: np.random.Generator) -> Floats:
    """1.2x +- 0.9x with a period of a sixth of the run."""

    def rate(t: Floats) -> Floats:
        return capacity * (1.2 + 0.9 * np.sin(12 * np.pi * t / duration_s))

    return poisson(rate, 2.1 * capacity, duration_s, rng)


def spike(capacity: float, duration_s: float, rng: np.random.Generator) -> Floats:
    """0.6x with four spikes of 2 s at 4.5x."""
    period, width = duration_s / 4, 2.0 * duration_s / DURATION_S

    def rate(t: Floats) -> Floats:
        return capacity * np.where((t % period >= period / 2) & (t % period < period / 2 + width), 4.5, 0.6)

    return poisson(rate, 4.5 * capacity, duration_s, rng)


def bursts(capacity: float, duration_s: float, rng: np.random.Generator) -> Floats:
    """Gamma renewal process, CV^2 = 8, at a mean of 1.2x."""
    cv2, mean = 8.0, 1.0 / (1.2 * capacity)
    gaps = rng.gamma(1 / cv2, mean * cv2, int(2.0 * duration_s / mean))
    times = np.cumsum(gaps)
    return times[times < duration_s]


def steady(capacity: float, duration_s: float, rng: np.random.Generator) -> Floats:
    """Poisson at 0.9x: the load under which the machine slows down in `slowdown`."""
    return poisson(lambda t: np.full_like(t, 0.9 * capacity), 0.9 * capacity, duration_s, rng)


def trace(capacity: float, duration_s: float, rng: np.random.Generator) -> Floats:
    """Recorded-like but synthetic: self-similar load of mean 1.1x, 40 on/off sources with Pareto periods (1.4).

    Superposed heavy-tailed on/off sources give long-range dependence as recorded traces show it (Willinger 1997).
    """
    bins = np.zeros(int(duration_s * 100))
    for _ in range(40):
        t, on = -float(rng.random() * 4.0), bool(rng.random() < 0.3)
        while t < duration_s:
            length = float(0.15 * (rng.pareto(1.4) + 1.0)) * (1.0 if on else 7 / 3)
            if on:
                bins[max(0, int(t * 100)) : max(0, int((t + length) * 100))] += 1.0
            t, on = t + length, not on
    bins *= 1.1 * capacity / max(bins.mean(), 1e-9)

    def rate(t: Floats) -> Floats:
        values: Floats = bins[np.minimum((t * 100).astype(np.int64), len(bins) - 1)]
        return values

    return poisson(rate, float(bins.max()), duration_s, rng)


SHAPES: dict[str, Shape] = {
    "step": step,
    "ramp": ramp,
    "sine": sine,
    "spike": spike,
    "bursts": bursts,
    "slowdown": steady,
    "trace": trace,
}


def constant(multiple: float) -> Shape:
    """Poisson at a constant multiple of the capacity."""

    def shape(capacity: float, duration_s: float, rng: np.random.Generator) -> Floats:
        return poisson(lambda t: np.full_like(t, multiple * capacity), multiple * capacity, duration_s, rng)

    return shape


def make_workload(
    name: str, shape: Shape, capacity: float, traffic: Traffic, seed: int, duration_s: float = DURATION_S
) -> Workload:
    """The workload of one shape and seed. capacity: requests per second at full budget, batched."""
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    arrivals = shape(capacity, duration_s, rng)
    slow = Slowdowns()
    if name == "slowdown":
        slow = Slowdowns((0.0, duration_s / 3, 2 * duration_s / 3), (1.0, SLOW_FACTOR, 1.0))
    return Workload(name, dress(arrivals, traffic, rng), duration_s, slow)
