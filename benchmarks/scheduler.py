"""What a request pays for the scheduler: CPU and wall time through `submit` against the model alone.

Run: python -m benchmarks.scheduler [--requests 4000] [--rounds 5] [--policy fixed|drain-feasible] [--profile]
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from models.interface import Arrays, ModelOutput, ModelSpec, TensorSpec
from service.control.fixed import Fixed
from service.control.policy import DrainFeasible
from service.control.profile import ServiceProfile
from service.control.types import Policy
from service.scheduling.scheduler import Scheduler
from service.scheduling.worker import ThreadWorkers
from service.telemetry.metrics import Metrics
from service.types import Contract, Work
from swan_runtime.budget import BudgetPoint, CalibrationTable
from swan_runtime.report import ComputeReport, LayerReport

POLICIES: dict[str, Callable[[], Policy]] = {"fixed": Fixed, "drain-feasible": DrainFeasible}


class Nothing:
    """A model that computes nothing, so that all that is measured is the scheduler. Reports two gated layers a row."""

    def __init__(self, max_batch: int = 32) -> None:
        tensors = (TensorSpec("x", "FP32", (16,)),)
        self.spec = ModelSpec("nothing", "1", "bench", tensors, tensors, max_batch, default_deadline_s=1.0)
        self.fingerprint = "nothing"
        points = tuple(BudgetPoint(b, {"a": 0.0, "b": 0.0}, b, b, b, b, b, b) for b in (0.25, 1.0))
        self.table: CalibrationTable | None = CalibrationTable("nothing", "nothing", "accuracy", 1, 1.0, points)
        layers = tuple(LayerReport(name, 8, 16, 1000, 10, 2000, "none") for name in "ab")
        self._report = ComputeReport(1.0, layers, 100)

    def warm_up(self) -> None: ...

    def example(self, rows: int) -> Arrays:
        return {"x": np.zeros((rows, 16), np.float32)}

    def infer(self, inputs: Arrays, budgets: NDArray[np.float64]) -> ModelOutput:
        return ModelOutput(inputs, (self._report,) * len(budgets))


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds a request."""

    wall_us: float
    cpu_us: float


async def measure(policy: str, concurrency: int, requests: int, rounds: int) -> Cost:
    """The best of some rounds: noise of the machine only ever adds."""
    model = Nothing()
    scheduler = Scheduler(POLICIES[policy](), ThreadWorkers(1), Metrics(CollectorRegistry(), [1.0]))
    scheduler.add_model(model, ServiceProfile.affine(1e-4, 1e-6, 1e-6, (0.25, 1.0), 32))
    inputs, contract = model.example(1), Contract()

    async def client(count: int) -> None:
        for _ in range(count):
            await scheduler.submit(Work("nothing", "1", inputs, 1, contract, time.monotonic()))

    best = Cost(float("inf"), float("inf"))
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*[client(requests // concurrency) for _ in range(concurrency)])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        best = Cost(min(best.wall_us, wall / requests * 1e6), min(best.cpu_us, cpu / requests * 1e6))
    scheduler.close()
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--policy", choices=sorted(POLICIES), nargs="*", default=sorted(POLICIES))
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--profile", action="store_true", help="print where the event loop's time goes")
    options = parser.parse_args()
    for policy in options.policy:
        for concurrency in options.concurrency:
            profiler = cProfile.Profile() if options.profile else None
            if profiler:
                profiler.enable()
            cost = asyncio.run(measure(policy, concurrency, options.requests, options.rounds))
            if profiler:
                profiler.disable()
                pstats.Stats(profiler).sort_stats("tottime").print_stats(35)
            wall_cpu = f"{cost.cpu_us:7.1f} us CPU, {cost.wall_us:7.1f} us wall a request"
            print(f"{policy:15} concurrency {concurrency:3}: {wall_cpu}")


if __name__ == "__main__":
    main()
