"""The best that any schedule could reach, knowing all arrivals: a bound, not a policy.

With equal concave quality per compute the optimum gives neighbouring requests equal compute wherever deadlines allow:
the taut string through the tube between releases and deadlines (Yao, Demers and Shenker 1995 solve the same problem
for energy). Where that leaves a request less time than the floor takes, that share of the requests is served there. The
bound grants what no machine has: fluid batching at the best rate, inputs of average compute, no noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from service.simulator.plant import Plant
from service.simulator.workload import Slowdowns, Workload


class Bound(NamedTuple):
    """Means over all requests, refused ones counted as 0."""

    attainment: float
    quality: float


def clairvoyant(plant: Plant, workload: Workload, workers: int = 1) -> Bound:
    """Upper bounds of what is on time and of its quality, for one model."""
    releases, deadlines = _machine_times(workload)
    profile, rows = plant.profile, _best_rows(plant)
    floor_s = profile.seconds(plant.plan.min_budget, rows)
    served = total = 0.0
    for seconds in taut_string(releases, deadlines):
        batch_s = seconds * workers * rows
        share = min(1.0, max(0.0, batch_s / floor_s))
        served += share
        total += share * plant.quality(profile.budget_for(batch_s, rows))
    n = max(1, len(releases))
    return Bound(served / n, total / n)


def taut_string(releases: Sequence[float], deadlines: Sequence[float]) -> list[float]:
    """Time for every item, in order, with items disjoint and inside [release, deadline]: as equal as possible.

    releases, deadlines: non-decreasing. Minimises every symmetric convex function of the times at once.
    """
    times: list[float] = []
    start = 0
    for i in range(len(releases)):
        last = i + 1 == len(releases)
        if last or releases[i + 1] >= deadlines[i]:
            times.extend(_shortest_path(releases[start : i + 1], deadlines[start : i + 1]))
            start = i + 1
    return times


def _shortest_path(releases: Sequence[float], deadlines: Sequence[float]) -> list[float]:
    """Increments of the shortest path x_0..x_n with releases[i] <= x_i <= deadlines[i-1], ends fixed (funnel)."""
    n = len(releases)
    low = [*releases, deadlines[-1]]
    high = [releases[0], *deadlines]
    path = [(0, low[0])]
    lower, upper = [path[0]], [path[0]]  # chains of the funnel, both from the apex: lower convex, upper concave
    for i in range(1, n + 1):
        _extend(lower, upper, (i, low[i]), path, 1.0)
        _extend(upper, lower, (i, high[i] if i < n else low[n]), path, -1.0)
    path.extend(lower[1:])
    times: list[float] = []
    for before, after in pairwise(path):
        times.extend([_slope(before, after)] * (after[0] - before[0]))
    return times


Point = tuple[int, float]


def _slope(a: Point, b: Point) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def _extend(side: list[Point], other: list[Point], point: Point, path: list[Point], sign: float) -> None:
    """Add a point to one side of the funnel; where it crosses the other side, the apex moves along that side.

    sign: 1 for the lower side (its slopes fall along the chain: a concave hull), -1 for the upper.
    """
    while len(side) > 1 and sign * (_slope(side[-2], point) - _slope(side[-2], side[-1])) >= 0:
        side.pop()
    if len(side) == 1:
        while len(other) > 1 and sign * (_slope(other[0], point) - _slope(other[0], other[1])) > 0:
            path.append(other[1])
            del other[0]
        side[0] = other[0]
    side.append(point)


def _best_rows(plant: Plant) -> int:
    sizes = range(1, plant.plan.max_batch + 1)
    return min(sizes, key=lambda rows: plant.profile.seconds(plant.plan.min_budget, rows) / rows)


def _machine_times(workload: Workload) -> tuple[list[float], list[float]]:
    """Releases and deadlines on a clock that runs slower while the machine is slow; deadlines made non-decreasing."""
    releases, deadlines = [], []
    latest = 0.0
    for request in workload.requests:
        releases.append(_machine_time(workload.slowdowns, request.arrival_s))
        latest = max(latest, _machine_time(workload.slowdowns, request.arrival_s + request.timeout_s))
        deadlines.append(latest)
    return releases, deadlines


def _machine_time(slowdowns: Slowdowns, now_s: float) -> float:
    total = 0.0
    ends = [*slowdowns.start_s[1:], float("inf")]
    for start, end, factor in zip(slowdowns.start_s, ends, slowdowns.factors, strict=True):
        if now_s > start:
            total += (min(now_s, end) - start) / factor
    return total
