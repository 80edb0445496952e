"""Measures how long a model takes over batch sizes and budgets, on real inputs, and remembers it between starts."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from models.interface import Arrays, ServableModel
from service.control.profile import ProfileFit, Sample, fit_profile
from swan_runtime.cache import cache_directory

log = logging.getLogger(__name__)

FORMAT = 2
MAX_REPEATS = 25
MIN_REPEATS = 3
NUM_BUDGETS = 5
ATTEMPTS = 2

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Profile:
    """A fitted profile, its key and where it came from: `measured` now or `cached`."""

    fit: ProfileFit
    key: str
    source: str


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: at most `seconds` a model. clock: seconds, for timing."""

    seconds: float = 2.0
    clock: Callable[[], float] = time.perf_counter


def profile_model(
    model: ServableModel,
    threads: int,
    cache: Path | None,
    effort: Effort | None = None,
    progress: Progress | None = None,
) -> Profile:
    """The model's profile from the cache, else measured (a few seconds of one core, on the calling thread) and cached.

    threads: worker threads of the replica, part of the key. cache: folder, None = the user's. progress: told the share
    done, 0 to 1. Raises what the model's infer raises.
    """
    key = profile_key(model, threads)
    path = (cache or user_cache()) / f"{key}.json"
    samples = _read(path, key)
    if samples is not None:
        return Profile(fit_profile(samples), key, "cached")
    for _ in range(ATTEMPTS):
        samples = measure(model, effort or Effort(), progress)
        fit = fit_profile(samples)
        if fit.adaptive:
            _write(path, key, samples)
            break
        # a busy machine can spoil a measurement; what is spoiled twice is used, but not remembered
        log.warning("profile of %s: %s", model.spec.name, "; ".join(fit.problems))
    return Profile(fit, key, "measured")


def profile_key(model: ServableModel, threads: int) -> str:
    """Hash of all that the times depend on: weights, shape of the service, machine and versions."""
    spec = model.spec
    facts = [FORMAT, spec.name, spec.version, model.fingerprint, spec.max_batch_size, threads, *_machine()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def measure(model: ServableModel, effort: Effort, progress: Progress | None = None) -> list[Sample]:
    """Time a grid of (rows, budget) in rounds until the time is up, every point at least MIN_REPEATS times.

    Rounds visit the whole grid, so that a disturbance of the machine touches all points alike. A model too slow for
    the full grid gets a coarser one: between its points the profile interpolates.
    """
    began = effort.clock()
    grid = _affordable_grid(model, effort)
    inputs = {rows: model.example(rows) for rows in {rows for rows, _ in grid}}
    samples: list[Sample] = []
    for repeat in range(1, MAX_REPEATS + 1):
        samples += [
            Sample(rows, budget, _time_once(model, inputs[rows], budget, effort.clock)) for rows, budget in grid
        ]
        spent = effort.clock() - began
        if progress:
            progress(min(1.0, max(repeat / MAX_REPEATS, spent / effort.seconds)))
        if repeat >= MIN_REPEATS and spent >= effort.seconds:
            break
    if progress:
        progress(1.0)
    return samples


def _affordable_grid(model: ServableModel, effort: Effort) -> list[tuple[int, float]]:
    """The finest grid of which MIN_REPEATS rounds fit into the time, judged by one warm request at the full budget."""
    budgets, sizes = budget_grid(model), batch_sizes(model.spec.max_batch_size)
    one = model.example(1)
    for budget in (budgets[0], budgets[-1]):
        _time_once(model, one, budget, effort.clock)  # the first call at each end may compile or allocate
    row_s = min(_time_once(model, one, budgets[-1], effort.clock) for _ in range(2))
    for rows, shares in _grids(sizes, budgets):
        if MIN_REPEATS * row_s * sum(rows) * len(shares) <= effort.seconds:
            return [(count, budget) for count in rows for budget in shares]
    return [(1, budget) for budget in dict.fromkeys((budgets[0], budgets[-1]))]


def _grids(sizes: Sequence[int], budgets: Sequence[float]) -> Iterator[tuple[Sequence[int], Sequence[float]]]:
    """Ever coarser grids, the largest batch of each as large as can be: beyond it rows are taken to cost alike."""
    few = tuple(dict.fromkeys((budgets[0], budgets[len(budgets) // 2], budgets[-1])))
    yield sizes, budgets
    for last in range(len(sizes) - 1, 0, -1):
        rows = tuple(dict.fromkeys((sizes[0], sizes[last // 2], sizes[last])))
        yield rows, few
        yield rows, tuple(dict.fromkeys((budgets[0], budgets[-1])))


def batch_sizes(max_batch: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to the maximum, which is always among them."""
    sizes = {1, max(1, max_batch)}
    size = 2
    while size < max_batch:
        sizes.add(size)
        size *= 2
    return tuple(sorted(sizes))


def budget_grid(model: ServableModel) -> tuple[float, ...]:
    """At most NUM_BUDGETS budgets from the lowest to the highest served; 1.0 alone for a model without gates."""
    table = model.table
    if table is None:
        return (1.0,)
    low, high = table.floor, table.budgets[-1]
    if low == high:
        return (low,)
    return tuple(float(budget) for budget in np.linspace(low, high, NUM_BUDGETS))


def user_cache() -> Path:
    """By default ~/.cache/swan-serve/profiles."""
    return cache_directory() / "profiles"


def _time_once(model: ServableModel, inputs: Arrays, budget: float, clock: Callable[[], float]) -> float:
    rows = len(next(iter(inputs.values())))
    budgets = np.full(rows, budget)
    began = clock()
    model.infer(inputs, budgets)
    return max(clock() - began, 1e-9)


def _machine() -> list[str]:
    versions = []
    for package in ("swan-serve", "torch", "numba", "numpy"):
        try:
            versions.append(version(package))
        except PackageNotFoundError:
            versions.append("")
    return [platform.machine(), _cpu_name(), str(os.cpu_count()), platform.python_version(), *versions]


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _read(path: Path, key: str) -> list[Sample] | None:
    """None for anything that is not exactly what `_write` wrote: a cache is never worth an error."""
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
        if raw["key"] != key:
            return None
        samples = [Sample(int(rows), float(budget), float(seconds)) for rows, budget, seconds in raw["samples"]]
        fit_profile(samples)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return samples


def _write(path: Path, key: str, samples: Sequence[Sample]) -> None:
    """Atomic, since several replicas may profile the same model; a read-only home is no error."""
    text = json.dumps({"key": key, "samples": [[one.rows, one.budget, one.seconds] for one in samples]})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            file.write(text)
        Path(file.name).replace(path)
    except OSError as error:
        log.warning("the profile cache is not writable: %s", error.strerror)
