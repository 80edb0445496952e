"""The traffic shapes: arrival times over a minute, as multiples of the capacity at full budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from service.simulator.workload import Floats, Slowdowns, Traffic, Workload, dress, poisson

DURATION_S = 60.0
SLOW_FACTOR = 1.8

HIGHEST_MULTIPLE = 4.5
HIGHEST_LOAD = 0.85


@dataclass(frozen=True, slots=True)
class Scale:
    """Requests per second of one replica at full and at floor budget; turns multiples of full capacity into rates.

    The published multiples (up to 4.5) suppose a model whose floor is several times faster than its full budget. For
    one with less to give, what lies above 1x is compressed so that 4.5x is 0.85 of what the floor can serve.
    """

    full: float
    floor: float

    @property
    def compression(self) -> float:
        return min(1.0, max(0.0, HIGHEST_LOAD * self.floor / self.full - 1.0) / (HIGHEST_MULTIPLE - 1.0))

    def rate(self, multiple: float) -> float:
        return self.full * (multiple if multiple <= 1.0 else 1.0 + (multiple - 1.0) * self.compression)


Shape = Callable[[Scale, float, np.random.Generator], Floats]


def step(scale: Scale, duration_s: float, rng: np.random.Generator) -> Floats:
    """0.6x, then 2x in the middle third, then 0.6x."""

    def rate(t: Floats) -> Floats:
        inside = (t >= duration_s / 3) & (t < 2 * duration_s / 3)
        return np.where(inside, scale.rate(2.0), scale.rate(0.6))

    return poisson(rate, scale.rate(2.0), duration_s, rng)


def ramp(scale: Scale, duration_s: float, rng: np.random.Generator) -> Floats:
    """0.3x to 3x in the first two thirds, then back down."""

    def rate(t: Floats) -> Floats:
        low, high = scale.rate(0.3), scale.rate(3.0)
        return np.interp(t / duration_s, [0.0, 2 / 3, 1.0], [low, high, low])

    return poisson(rate, scale.rate(3.0), duration_s, rng)


def sine(scale: Scale, duration_s: float, rng: np.random.Generator) -> Floats:
    """1.2x +- 0.9x with a period of a sixth of the run."""

    def rate(t: Floats) -> Floats:
        low, high = scale.rate(0.3), scale.rate(2.1)
        return (low + high) / 2 + (high - low) / 2 * np.sin(12 * np.pi * t / duration_s)

    return poisson(rate, scale.rate(2.1), duration_s, rng)


def spike(scale: Scale, duration_s: float, rng: np.random.Generator) -> Floats:
    """0.6x with four spikes of 2 s at 4.5x."""
    period, width = duration_s / 4, 2.0 * duration_s / DURATION_S

    def rate(t: Floats) -> Floats:
        inside = (t % period >= period / 2) & (t % period < period / 2 + width)
        return np.where(inside, scale.rate(4.5), scale.rate(0.6))

    return poisson(rate, scale.rate(4.5), duration_s, rng)


def bursts(scale: Scale, duration_s: float, rng: np.random.Generator) -> Floats:
    """Gamma renewal process, CV^2 = 8, at a mean of 1.2x."""
    cv2, mean = 8.0, 1.0 / scale.rate(1.2)
    gaps = rng.gamma(1 / cv2, mean * cv2, int(2.0 * duration_s / mean))
    times = np.cumsum(gaps)
    return times[times < duration_s]


def steady(scale: Scale, duration_s: float, rng: np.random.Generator) -> Floats:
    """Poisson at 0.9x: the load under which the machine slows down in `slowdown`."""
    return poisson(lambda t: np.full_like(t, scale.rate(0.9)), scale.rate(0.9), duration_s, rng)


def trace(scale: Scale, duration_s: float, rng: np.random.Generator) -> Floats:
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
    bins *= scale.rate(1.1) / max(bins.mean(), 1e-9)
    bins = np.minimum(bins, scale.rate(HIGHEST_MULTIPLE))

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
    """Poisson at a constant multiple of the full capacity, not compressed."""

    def shape(scale: Scale, duration_s: float, rng: np.random.Generator) -> Floats:
        rate = multiple * scale.full
        return poisson(lambda t: np.full_like(t, rate), rate, duration_s, rng)

    return shape


def make_workload(
    name: str, shape: Shape, scale: Scale, traffic: Traffic, seed: int, duration_s: float = DURATION_S
) -> Workload:
    """The workload of one shape and seed."""
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    arrivals = shape(scale, duration_s, rng)
    slow = Slowdowns()
    if name == "slowdown":
        slow = Slowdowns((0.0, duration_s / 3, 2 * duration_s / 3), (1.0, SLOW_FACTOR, 1.0))
    return Workload(name, dress(arrivals, traffic, rng), duration_s, slow)
