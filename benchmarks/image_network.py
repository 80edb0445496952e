"""`python -m benchmarks.image_network`: a packaged image network at its budgets against its plain torch network.

One process, one thread, interleaved rounds, best of each. A batch holds different pictures, so every sample has its own
masks; "mixed" batches also have another budget each.
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
from rich.console import Console
from rich.table import Table

from models.images import load_dense
from models.interface import ServableModel
from models.package import read_package
from models.registry import find_package, load_package, shipped_repository

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


def main(
    name: Annotated[str, typer.Option(help="Name of an image package.")] = "fashion-resnet",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records to this file.")] = None,
    seconds: Annotated[float, typer.Option(help="To measure one batch size.")] = 8.0,
) -> None:
    """Whole requests: arrays in, probabilities and reports out."""
    torch.set_num_threads(1)
    path = find_package(shipped_repository(), name)
    ours, dense = load_package(path), load_dense(read_package(path))
    points = [point for rows in ROWS for point in measure(name, ours, dense, rows, seconds)]
    Console().print(table(points))
    if json_file:
        json_file.write_text(json.dumps([asdict(point) for point in points], indent=1) + "\n", encoding="utf-8")


def measure(name: str, ours: ServableModel, dense: torch.nn.Module, rows: int, seconds: float) -> Iterator[Point]:
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
    best = _best(calls, batches, seconds)
    for label, budgets in labels.items():
        reports = [report for batch in batches for report in ours.infer({"INPUT": batch}, budgets).reports]
        ratio = sum(report.macs_dense for report in reports) / sum(report.macs for report in reports)
        speedup = best["dense"] / best[label]
        kernels = sorted({layer.kernel for report in reports for layer in report.layers})
        milliseconds = best["dense"] * 1e3, best[label] * 1e3
        yield Point(name, rows, label, *milliseconds, speedup, ratio, speedup / ratio, " ".join(kernels))


def _best(
    calls: dict[str, Callable[[np.ndarray], object]], batches: list[np.ndarray], seconds: float
) -> dict[str, float]:
    """Mean seconds a batch of the best round; a round runs all batches, so that no contender meets an easy one only."""
    best = dict.fromkeys(calls, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for label, call in calls.items():
            call(batches[0])
            start = time.perf_counter()
            for batch in batches:
                call(batch)
            best[label] = min(best[label], (time.perf_counter() - start) / len(batches))
    return best


def table(points: list[Point]) -> Table:
    view = Table("rows", "budget", "dense ms", "ours ms", "speed-up", "MACs ratio", "share of ideal", "kernels")
    for p in points:
        numbers = f"{p.dense_ms:.3f}", f"{p.ours_ms:.3f}", f"{p.speedup:.2f}x", f"{p.macs_ratio:.2f}"
        view.add_row(str(p.rows), p.budget, *numbers, f"{p.share_of_ideal:.2f}", p.kernels)
    return view


if __name__ == "__main__":
    typer.run(main)
