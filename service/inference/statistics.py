"""Triton's statistics of one model version: counts and summed nanoseconds, from completions as they pass."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from service.types import Completion


@dataclass(slots=True)
class Duration:
    """How often something happened and how long it took in all. A batch's request counts for its share of the batch."""

    count: float = 0
    ns: float = 0

    def add(self, seconds: float, share: float = 1) -> None:
        self.count += share
        self.ns += seconds * 1e9 * share

    def as_json(self) -> dict[str, int]:
        return {"count": round(self.count), "ns": round(self.ns)}


@dataclass(slots=True)
class Statistics:
    """Since the model version was first asked, on this replica. Durations count requests.

    inference_count: rows; executions: batches, each split over its requests; last_inference_ms: wall clock.
    overhead: latency outside queue and model: validating, copying, waking up.
    """

    inference_count: int = 0
    executions: float = 0
    last_inference_ms: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    overhead: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    batches: dict[int, Duration] = field(default_factory=dict)

    @property
    def execution_count(self) -> int:
        return round(self.executions)

    def answered(self, rows: int, completion: Completion, latency_s: float) -> None:
        share = rows / max(rows, completion.batch_size)
        self.inference_count += rows
        self.executions += share
        self.last_inference_ms = int(time.time() * 1000)
        self.success.add(latency_s)
        self.queue.add(completion.queue_s)
        self.compute_infer.add(completion.compute_s)
        self.overhead.add(max(0.0, latency_s - completion.queue_s - completion.compute_s))
        self.batches.setdefault(completion.batch_size, Duration()).add(completion.compute_s, share)

    def refused(self, latency_s: float) -> None:
        self.fail.add(latency_s)
