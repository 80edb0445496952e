"""Counters of one model version in the shape of the statistics extension: counts and summed nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass, field

NANOSECONDS = 1_000_000_000


@dataclass(slots=True)
class Duration:
    """How often something happened and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        self.count += count
        self.ns += round(seconds * NANOSECONDS) * count


@dataclass(slots=True)
class BatchStatistics:
    """Batches of one size."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class Statistics:
    """Since the model was loaded, on this replica. Durations count requests; a batch's time counts for each of them.

    inference_count: rows computed; execution_count: batches; last_inference_ms: wall clock, milliseconds.
    """

    inference_count: int = 0
    execution_count: int = 0
    last_inference_ms: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    batches: dict[int, BatchStatistics] = field(default_factory=dict)

    def count_batch(self, requests: int, rows: int, seconds: tuple[float, float, float], wall_s: float) -> None:
        """seconds: joining inputs, computing, splitting outputs. wall_s: seconds since the epoch."""
        self.inference_count += rows
        self.execution_count += 1
        self.last_inference_ms = int(wall_s * 1000)
        batch = self.batches.get(rows)
        if batch is None:
            batch = self.batches[rows] = BatchStatistics()
        for name, value in zip(("compute_input", "compute_infer", "compute_output"), seconds, strict=True):
            getattr(self, name).add(value, requests)
            getattr(batch, name).add(value)
