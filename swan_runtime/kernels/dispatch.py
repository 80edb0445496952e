"""Which kernel serves (rows, density, shape): by costs measured on this machine, once per shape, kept in a file."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from swan_runtime.cache import cache_directory
from swan_runtime.errors import InvalidInputError
from swan_runtime.kernels import convolution, inputs, shared
from swan_runtime.kernels import rows as own
from swan_runtime.kernels.conv_weights import ConvWeights
from swan_runtime.kernels.costs import CostTable
from swan_runtime.kernels.magnitude_weights import InputWeights
from swan_runtime.kernels.native import build, library
from swan_runtime.kernels.weights import GluWeights, MlpWeights

log = logging.getLogger(__name__)

_STEPS = 64
_LEAST_ROUNDS = 3
_IDLE_ROUNDS = 4  # rounds without a gain after which the best is believed
_BETTER = 0.97
_SECONDS_PER_ROWS = 0.15  # at most, for all kernels and densities at one number of rows
_lock = threading.Lock()

Packed = MlpWeights | GluWeights | ConvWeights | InputWeights
Run = Callable[[str, Tensor], object]  # kernel, mask -> runs it once


@dataclass(frozen=True)
class Kind:
    """A family of calls: its kernels, the grid they are measured on, and how to make such a call.

    rows: vector rows, rows of one request, or samples. masks: rows -> how many masks such a call takes.
    """

    name: str
    kernels: tuple[str, ...]
    rows: tuple[int, ...]
    densities: tuple[float, ...]
    masks: Callable[[int], int]


OWN = Kind("own", ("native", "numba", "dense", "reference"), (1, 2, 8, 32, 64), (0.05, 0.3, 0.6, 1.0), lambda n: n)
INPUTS = Kind(
    "inputs", ("native", "numba", "dense", "reference"), (1, 2, 8, 32, 64), (0.05, 0.3, 0.6, 1.0), lambda n: n
)
SHARED = Kind("shared", ("native", "gather", "dense", "reference"), (4, 16, 64, 256), (0.1, 0.5, 1.0), lambda n: 1)
CONV = Kind("conv", ("native", "gather", "dense", "reference"), (1, 4, 16), (0.1, 0.5, 1.0), lambda n: n)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One kernel, its predicted milliseconds, or the reason why it does not apply here."""

    kernel: str
    predicted_ms: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """kernel: what serves. candidates: all kernels with what speaks for or against each."""

    kernel: str
    candidates: tuple[Candidate, ...]


def candidates(kind: Kind) -> dict[str, str]:
    """Kernel -> reason why it does not apply on this machine; empty = it applies."""
    native = library() is not None
    slower = "the native library is loaded and does the same work faster" if native else ""
    against = {
        "native": "" if native else "the native library is not available (no C compiler, or an unknown CPU)",
        "numba": slower,
        "gather": slower,
        "reference": "the oracle: never chosen, only asked for by name",
    }
    return {kernel: against.get(kernel, "") for kernel in kind.kernels}


def table(w: Packed, kind: Kind, threads: int = 1, size: tuple[int, int] = (0, 0)) -> CostTable:
    """The block's cost table: from memory, else from the cache file, else measured (well under a second) and kept.

    size: height and width of a convolution's input.
    """
    key = ("costs", kind.name, threads, size)
    if key not in w.cache:
        with _lock:
            if key not in w.cache:
                w.cache[key] = _shape_table(w, kind, threads, size)
    result: CostTable = w.cache[key]
    return result


def choose(w: Packed, kind: Kind, rows: int, share: float, threads: int = 1) -> str:
    """The kernel for that call; share: the density, remembered in steps of 1/64 (interpolating takes 30 us)."""
    step = math.ceil(share * _STEPS)
    key = ("choice", kind.name, rows, step, threads)
    if key not in w.cache:
        w.cache[key] = table(w, kind, threads).choose(rows, step / _STEPS)
    chosen: str = w.cache[key]
    return chosen


def most_active(w: MlpWeights | GluWeights | InputWeights, rows: int, kind: Kind = OWN) -> int:
    """The number of active units, all rows together, up to which skipping is faster than dense on one thread."""
    key = ("most_active", rows)
    if key not in w.cache:
        w.cache[key] = int(table(w, kind).break_even(rows) * rows * w.units)
    value: int = w.cache[key]
    return value


def choose_conv(w: ConvWeights, rows: int, active: int, size: tuple[int, int], threads: int = 1) -> str:
    """The kernel for `rows` samples of that size with `active` channels, all samples together."""
    key = ("most_active", rows, size, threads)
    if key not in w.cache:
        w.cache[key] = table(w, CONV, threads, size).break_even(rows) * rows * w.units
    if library() is not None:
        return "native" if active <= w.cache[key] else "dense"
    return table(w, CONV, threads, size).choose(rows, active / max(rows * w.units, 1))


def explain(
    w: Packed, rows: int, density: float, kind: Kind = OWN, threads: int = 1, size: tuple[int, int] = (0, 0)
) -> Choice:
    """The choice for that call and why: predicted milliseconds, or why a kernel does not apply."""
    costs = table(w, kind, threads, size)
    chosen = costs.choose(rows, density)
    found = []
    for kernel, against in candidates(kind).items():
        if against:
            found.append(Candidate(kernel, None, against))
            continue
        predicted = costs.predict(kernel, rows, density) * 1e3
        found.append(Candidate(kernel, predicted, "least predicted time" if kernel == chosen else "predicted slower"))
    return Choice(chosen, tuple(found))


def check_kernel(kernel: str, known: Mapping[str, object]) -> None:
    """Raise InvalidInputError unless it is one of `known` that runs on this machine."""
    if kernel not in known or (kernel == "native" and library() is None):
        raise InvalidInputError("kernel", f"one of {', '.join(known)} that applies here", repr(kernel))


def density(mask: Tensor) -> float:
    """Share of active units in [0, 1]."""
    return int(mask.count_nonzero()) / max(mask.numel(), 1)


_tables: dict[tuple[object, ...], CostTable] = {}


def _shape_table(w: Packed, kind: Kind, threads: int, size: tuple[int, int]) -> CostTable:
    key = (kind.name, type(w).__name__, *_shape(w), w.outputs, threads, size)
    if key not in _tables:
        path = _cache_file((*key, kind.rows, kind.densities))
        known = _read(path)
        _tables[key] = measure(w, kind, threads, size) if known is None else known
        if known is None and path is not None:
            _write(path, _tables[key])
    return _tables[key]


def _shape(w: Packed) -> tuple[object, ...]:
    """What a block's costs depend on besides its outputs."""
    if isinstance(w, InputWeights):
        return w.units, w.half is not None, 0 if w.path is None else w.path[0].shape[1]
    if isinstance(w, ConvWeights):
        return tuple(w.up.shape), w.activation, w.stride
    return tuple(w.up.shape), w.activation, w.half is not None


def measure(w: Packed, kind: Kind, threads: int, size: tuple[int, int] = (0, 0)) -> CostTable:
    """Time every applicable kernel on the grid with random rows and masks."""
    generator = torch.Generator().manual_seed(0)
    names = [kernel for kernel, against in candidates(kind).items() if not against]
    seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    with torch.inference_mode():
        for rows in kind.rows:
            run = _call(w, kind, rows, threads, size, generator)
            draw = torch.rand(kind.masks(rows), w.units, generator=generator)
            # Dense work does not depend on the mask: one density stands for all.
            points = [(name, d) for name in names for d in ((1.0,) if name == "dense" else kind.densities)]
            best = _best(run, [(name, draw < density) for name, density in points])
            for name in names:
                line = tuple(b for (of, _), b in zip(points, best, strict=True) if of == name)
                seconds[name].append(line * len(kind.densities) if name == "dense" else line)
    return CostTable(kind.rows, kind.densities, {name: tuple(grid) for name, grid in seconds.items()})


def _call(w: Packed, kind: Kind, rows: int, threads: int, size: tuple[int, int], generator: torch.Generator) -> Run:
    if isinstance(w, ConvWeights):
        maps = torch.randn(rows, w.inputs, *size, generator=generator)
        return lambda kernel, mask: convolution.run(kernel, w, maps, mask, None, threads)
    if isinstance(w, InputWeights):
        values = torch.randn(rows, w.units, generator=generator)
        return lambda kernel, mask: inputs.run(kernel, w, values, mask, threads)
    x = torch.randn(rows, w.inputs, generator=generator)
    if kind is SHARED:
        offsets = torch.tensor([0, rows])
        return lambda kernel, mask: shared.run(kernel, w, x, offsets, mask, threads)
    return lambda kernel, mask: own.run(kernel, w, x, mask, threads)


def _best(run: Run, calls: Sequence[tuple[str, Tensor]]) -> list[float]:
    """Best seconds of each call, in interleaved rounds: another process that is busy for a moment slows all of them.

    Rounds go on until a few in a row have found nothing better, or time is up.
    """
    best = [float("inf")] * len(calls)
    end, idle, rounds = time.perf_counter() + _SECONDS_PER_ROWS, 0, 0
    while rounds < _LEAST_ROUNDS or (idle < _IDLE_ROUNDS and time.perf_counter() < end):
        found = [_seconds(run, kernel, mask) for kernel, mask in calls]
        better = any(new < old * _BETTER for new, old in zip(found, best, strict=True))
        best = [min(pair) for pair in zip(found, best, strict=True)]
        idle, rounds = 0 if better else idle + 1, rounds + 1
    return [max(value, 1e-9) for value in best]


def _seconds(run: Run, kernel: str, mask: Tensor) -> float:
    """The second of two calls: the first one refills the caches that other kernels emptied."""
    run(kernel, mask)
    start = time.perf_counter()
    run(kernel, mask)
    return time.perf_counter() - start


@cache
def machine() -> str:
    """CPU model, torch version and kernel version: what a measured cost is worth only together with."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        log.debug("no /proc/cpuinfo, using %s", model)
    loaded = library()
    return f"{model}|{os.cpu_count()}|{torch.__version__}|{loaded.path.name if loaded else 'numba'}"


def _cache_file(key: tuple[object, ...]) -> Path | None:
    name = hashlib.sha256(repr((machine(), torch.get_num_threads(), key)).encode()).hexdigest()[:24]
    try:
        return build.own_directory(cache_directory() / "costs") / f"{name}.json"
    except build.LibraryUnavailable:
        return None


def _read(path: Path | None) -> CostTable | None:
    if path is None or not path.is_file():
        return None
    try:
        return CostTable.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        log.warning("ignoring a malformed cost table: %s", path.name)
        return None


def _write(path: Path, costs: CostTable) -> None:
    """Atomic: another process may read or write the same file."""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".json", delete=False) as file:
            file.write(costs.to_json())
        Path(file.name).replace(path)
    except OSError as error:
        log.warning("cost table not kept: %s", error)
