"""When requests are sent: seeded, open loop, decided before the first one leaves.

A schedule is an ascending array of seconds from the start. Its long-run rate follows a shape (a function of time,
requests a second); its burstiness is the squared coefficient of variation of the gaps in operational time: cv2 = 1 is
Poisson.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
Shape = Callable[[float], float]


def constant(rate: float) -> Shape:
    return lambda t: rate


def step(low: float, high: float, start: float, end: float) -> Shape:
    """`low`, but `high` between `start` and `end` seconds."""
    return lambda t: high if start <= t < end else low


def ramp(low: float, high: float, duration: float) -> Shape:
    return lambda t: low + (high - low) * min(1.0, t / duration)


def sine(low: float, high: float, period: float) -> Shape:
    return lambda t: low + (high - low) * (0.5 - 0.5 * math.cos(2.0 * math.pi * t / period))


def spikes(low: float, high: float, every: float, length: float) -> Shape:
    """`length` seconds of `high` at the end of every `every` seconds."""
    return lambda t: high if t % every >= every - length else low


def arrivals(shape: Shape, duration: float, seed: int, cv2: float = 1.0) -> Times:
    """Arrival times in [0, duration): gamma gaps of mean 1 and variance cv2, mapped through the integrated rate."""
    if cv2 <= 0.0 or duration <= 0.0:
        raise ValueError(f"duration and cv2 must be positive, got {duration} and {cv2}")
    grid = np.linspace(0.0, duration, max(2, int(duration * 200)) + 1)
    middle = 0.5 * (grid[:-1] + grid[1:])
    rates = np.array([shape(float(t)) for t in middle])
    expected = np.concatenate([[0.0], np.cumsum(rates * np.diff(grid))])
    total = float(expected[-1])
    rng = np.random.default_rng(seed)
    count = int(total + 8.0 * math.sqrt(total * max(cv2, 1.0)) + 16)
    operational = np.cumsum(rng.gamma(1.0 / cv2, cv2, count))
    operational = operational[operational < total]
    return np.interp(operational, expected, grid)


def replay(path: Path, speed: float = 1.0) -> Times:
    """A JSONL trace: one object a line with `t`, seconds from the start, ascending. speed 2 plays it twice as fast.

    Raises ValueError that names the first line that is none.
    """
    times: list[float] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            times.append(float(json.loads(line)["t"]))
        except (ValueError, KeyError, TypeError):
            raise ValueError(f'{path.name}, line {number}: expected {{"t": seconds}}, got {line[:40]!r}') from None
        if not times[-1] >= (times[-2] if len(times) > 1 else 0.0):
            raise ValueError(f"{path.name}, line {number}: seconds from the start must ascend from 0")
    return np.array(times) / speed


def write_trace(times: Times, path: Path) -> None:
    """The schedule as a JSONL trace that `replay` reads."""
    path.write_text("".join(json.dumps({"t": round(float(t), 6)}) + "\n" for t in times), encoding="utf-8")
