"""Which kernel serves (rows, density, shape): by costs measured on this machine, once per shape, kept in a file."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from swan_runtime.kernels import rows as kernels
from swan_runtime.kernels.costs import CostTable
from swan_runtime.kernels.native import build, library
from swan_runtime.kernels.weights import GluWeights, MlpWeights

log = logging.getLogger(__name__)

ROWS = (1, 2, 8, 32, 64)
DENSITIES = (0.05, 0.3, 0.6, 1.0)
_REPEATS = 5
_SECONDS_PER_POINT = 0.02
_lock = threading.Lock()


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


def candidates() -> dict[str, str]:
    """Kernel -> reason why it does not apply on this machine; empty = it applies."""
    native = library() is not None
    return {
        "native": "" if native else "the native library is not available (no C compiler, or an unknown CPU)",
        "numba": "the native library is loaded and does the same work faster" if native else "",
        "dense": "",
        "reference": "the oracle: never chosen, only asked for by name",
    }


def table(w: MlpWeights | GluWeights, threads: int = 1) -> CostTable:
    """The block's cost table: from memory, else from the cache file, else measured (well under a second) and kept."""
    found = w.cache.get(("costs", threads))
    if found is None:
        with _lock:
            found = w.cache.get(("costs", threads)) or _shape_table(w, threads)
            w.cache["costs", threads] = found
    result: CostTable = found
    return result


def choose(w: MlpWeights | GluWeights, rows: int, density: float, threads: int = 1) -> str:
    """Name of the kernel that serves."""
    return table(w, threads).choose(rows, density)


def most_active(w: MlpWeights | GluWeights, rows: int, threads: int = 1) -> int:
    """The number of active units, all rows together, up to which skipping is faster than dense."""
    key = ("most_active", rows, threads)
    if key not in w.cache:
        w.cache[key] = int(table(w, threads).break_even(rows) * rows * w.units)
    value: int = w.cache[key]
    return value


def explain(w: MlpWeights | GluWeights, rows: int, density: float, threads: int = 1) -> Choice:
    """The choice for that call and why: predicted milliseconds, or why a kernel does not apply."""
    costs = table(w, threads)
    chosen = costs.choose(rows, density)
    found = []
    for kernel, against in candidates().items():
        if against:
            found.append(Candidate(kernel, None, against))
            continue
        predicted = costs.predict(kernel, rows, density) * 1e3
        found.append(Candidate(kernel, predicted, "least predicted time" if kernel == chosen else "predicted slower"))
    return Choice(chosen, tuple(found))


_tables: dict[tuple[object, ...], CostTable] = {}


def _shape_table(w: MlpWeights | GluWeights, threads: int) -> CostTable:
    key = (type(w).__name__, w.units, w.inputs, w.outputs, w.activation, threads)
    if key not in _tables:
        path = _cache_file(key)
        known = _read(path)
        _tables[key] = known if known is not None else measure(w, threads)
        if known is None and path is not None:
            _write(path, _tables[key])
    return _tables[key]


def measure(w: MlpWeights | GluWeights, threads: int) -> CostTable:
    """Time every applicable kernel on the grid with random rows and masks."""
    generator = torch.Generator().manual_seed(0)
    names = [kernel for kernel, against in candidates().items() if not against]
    seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    for rows in ROWS:
        x = torch.randn(rows, w.inputs, generator=generator)
        draw = torch.rand(rows, w.units, generator=generator)
        for name in names:
            # Dense work does not depend on the mask: one density stands for all.
            densities = (1.0,) if name == "dense" else DENSITIES
            line = [_best(lambda m: kernels.run(name, w, x, m, threads), draw < d) for d in densities]  # noqa: B023
            seconds[name].append(tuple(line * len(DENSITIES) if name == "dense" else line))
    return CostTable(ROWS, DENSITIES, {name: tuple(grid) for name, grid in seconds.items()})


def _best(call: Callable[[Tensor], Tensor], mask: Tensor) -> float:
    """Best of a few runs, stopped early when they are slow. The first one warms up."""
    call(mask)
    best, end = float("inf"), time.perf_counter() + _SECONDS_PER_POINT
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call(mask)
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            break
    return max(best, 1e-9)


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
    name = hashlib.sha256(repr((machine(), torch.get_num_threads(), ROWS, DENSITIES, key)).encode()).hexdigest()[:24]
    try:
        return build.own_directory(build.cache_directory() / "costs") / f"{name}.json"
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
