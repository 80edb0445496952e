"""`python -m benchmarks.image_network`: a packaged image network at its budgets against its plain torch network.

One process, one thread, interleaved, the best time of each call on each batch, averaged over batches. A batch holds
different pictures, so every sample has its own masks; "mixed" batches also have another budget each.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.table import Table

from models.images import load_dense
from models.interface import ServableModel
from models.package import read_package
from models.registry import find_package, load_package, shipped_repository
from service.commands.tables import table_console

ROWS = (1, 16)
BUDGETS = (0.2, 0.3, 0.4, 0.6, 1.0)
MIXED = (0.2, 0.4, 0.6, 1.0)


@dataclass(frozen=True)
class Point:
    """One batch size at one budget. macs_ratio: dense MACs over those executed, gates included."""

    model: str
    rows: int
    budget: str
    dense_ms: float
    ours_ms: float
    speedup: float
    macs_ratio: float
    share_of_ideal: float
    kernels: str


@dataclass(frozen=True)
class Watch:
    """seconds: how long to measure; cpu: by the thread's CPU time."""

    seconds: float
    cpu: bool


def main(
    name: Annotated[str, typer.Option(help="Name of an image package.")] = "fashion-resnet",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records to this file.")] = None,
    seconds: Annotated[float, typer.Option(help="To measure one batch size.")] = 8.0,
    cpu: Annotated[bool, typer.Option(help="CPU time instead of the wall clock: for a crowded machine.")] = False,
) -> None:
    """Whole requests: arrays in, probabilities and reports out."""
    torch.set_num_threads(1)
    path = find_package(shipped_repository(), name)
    ours, dense = load_package(path), load_dense(read_package(path))
    points = [point for rows in ROWS for point in measure(name, ours, dense, rows, Watch(seconds, cpu))]
    table_console().print(table(points))
    if json_file:
        json_file.write_text(json.dumps([asdict(point) for point in points], indent=1) + "\n", encoding="utf-8")


def measure(name: str, ours: ServableModel, dense: torch.nn.Module, rows: int, watch: Watch) -> Iterator[Point]:
    """All budgets at one batch size, interleaved with the dense network."""
    pictures = ours.example(8 * rows)["INPUT"]
    batches = [pictures[i * rows : (i + 1) * rows] for i in range(8)]
    labels = {str(budget): np.full(rows, budget) for budget in BUDGETS}
    if rows > 1:
        labels["mixed"] = np.resize(MIXED, rows)
    calls: dict[str, Callable[[np.ndarray], object]] = {
        "dense": torch.inference_mode()(lambda batch: dense(torch.from_numpy(batch))),
        **{label: lambda batch, b=budgets: ours.infer({"INPUT": batch}, b) for label, budgets in labels.items()},
    }
    best = _best(calls, batches, watch)
    for label, budgets in labels.items():
        reports = [report for batch in batches for report in ours.infer({"INPUT": batch}, budgets).reports]
        ratio = sum(report.macs_dense for report in reports) / sum(report.macs for report in reports)
        speedup = best["dense"] / best[label]
        kernels = sorted({layer.kernel for report in reports for layer in report.layers})
        milliseconds = best["dense"] * 1e3, best[label] * 1e3
        yield Point(name, rows, label, *milliseconds, speedup, ratio, speedup / ratio, " ".join(kernels))


def _best(
    calls: dict[str, Callable[[np.ndarray], object]], batches: list[np.ndarray], watch: Watch
) -> dict[str, float]:
    """Seconds a batch: the best of many calls for each batch, then the mean over batches, easy and hard ones."""
    best = {label: [float("inf")] * len(batches) for label in calls}
    clock = time.thread_time if watch.cpu else time.perf_counter
    end = time.perf_counter() + watch.seconds
    while time.perf_counter() < end:
        for i, batch in enumerate(batches):
            for label, call in calls.items():
                call(batch)
                start = clock()
                call(batch)
                best[label][i] = min(best[label][i], clock() - start)
    return {label: sum(times) / len(times) for label, times in best.items()}


def table(points: list[Point]) -> Table:
    view = Table("rows", "budget", "dense ms", "ours ms", "speed-up", "MACs ratio", "share of ideal", "kernels")
    for p in points:
        numbers = f"{p.dense_ms:.3f}", f"{p.ours_ms:.3f}", f"{p.speedup:.2f}x", f"{p.macs_ratio:.2f}"
        view.add_row(str(p.rows), p.budget, *numbers, f"{p.share_of_ideal:.2f}", p.kernels)
    return view


if __name__ == "__main__":
    typer.run(main)
