"""Comparing noisy runs: bootstrap intervals of ratios over interleaved blocks, and the noise of the machine itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % bootstrap interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"


def ratio_interval(
    numerator: Sequence[float], denominator: Sequence[float], seed: int = 0, rounds: int = 2000
) -> Interval:
    """Ratio of means of paired blocks; blocks are resampled in pairs, so that what disturbed both cancels."""
    a, b = np.asarray(numerator, float), np.asarray(denominator, float)
    if a.shape != b.shape or not a.size:
        raise ValueError(f"paired blocks of equal number needed, got {a.size} and {b.size}")
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, a.size, (rounds, a.size))
    denominators = b[picks].mean(axis=1)
    ratios = a[picks].mean(axis=1)[denominators > 0] / denominators[denominators > 0]
    estimate = a.mean() / b.mean() if b.mean() > 0 else float("inf")
    if not ratios.size:
        return Interval(float(estimate), float("nan"), float("nan"))
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Interval(float(estimate), float(low), float(high))


def sleep_jitter_p99_s(samples: int = 200, pause_s: float = 0.001) -> float:
    """How late this machine wakes a sleeping thread, 99th percentile: its noise floor for deadlines."""
    late = []
    for _ in range(samples):
        start = time.perf_counter()
        time.sleep(pause_s)
        late.append(time.perf_counter() - start - pause_s)
    return float(np.percentile(late, 99))
