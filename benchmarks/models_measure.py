"""Quality, activity and MACs of a network on an exam; time a request of many networks, interleaved."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.models_exam import Exam, Inputs
from swan_runtime.macs import MacCounter
from swan_runtime.report import ComputeReport
from swan_runtime.runtime import Runtime

Answer = Callable[[Inputs], tuple[Tensor, Sequence[ComputeReport]]]
MIN_SLOT_S = 0.004
"""A timing slot repeats a network until this much time is gone: a clock read and a cold cache are then noise."""


@dataclass(frozen=True)
class Contender:
    """One network at one budget. answer: inputs -> (outputs, a report a row, or none for a plain network).

    plain: the network if it has no gates; its MACs are then counted, not reported. runtime: if it has some.
    """

    model: str
    variant: str
    label: str
    budget: float
    answer: Answer
    plain: nn.Module | None = None
    runtime: Runtime | None = None

    def use_threads(self, threads: int) -> None:
        """For the kernels; torch has its own global setting."""
        if self.runtime is not None:
            self.runtime.threads = threads


@dataclass(frozen=True)
class Result:
    """What one contender showed. macs: a request's mean over the test data; activities: one a request.

    hard, easy: mean activity on hard and on easy inputs. ms: batch size -> milliseconds a request.
    """

    contender: Contender
    quality: dict[str, float]
    n: int
    macs: float
    macs_fixed: float
    activities: np.ndarray[Any, np.dtype[np.float64]]
    hard: float | None = None
    easy: float | None = None
    ms: dict[int, float] = field(default_factory=dict)

    @property
    def variant(self) -> str:
        return self.contender.variant

    @property
    def budget(self) -> float:
        return self.contender.budget


def gated(model: str, variant: str, label: str, budget: float, runtime: Runtime) -> Contender:
    """A calibrated network on the kernels, as it is served."""

    def answer(inputs: Inputs) -> tuple[Tensor, Sequence[ComputeReport]]:
        outputs, reports = runtime.infer(inputs, [budget] * len(inputs[0]))
        return outputs, reports

    return Contender(model, variant, label, budget, answer, runtime=runtime)


def plain(model: str, variant: str, label: str, network: nn.Module, budget: float = 1.0) -> Contender:
    """A network without gates in plain torch."""

    def answer(inputs: Inputs) -> tuple[Tensor, Sequence[ComputeReport]]:
        with torch.inference_mode():
            return network(*inputs), ()

    return Contender(model, variant, label, budget, answer, network)


def examine(contender: Contender, exam: Exam) -> Result:
    """Run all test data in bulk; MACs come from the reports, or are counted where there are none."""
    outputs: list[Tensor] = []
    reports: list[ComputeReport] = []
    counted = 0
    for inputs in exam.batches:
        if contender.plain is None:
            answered, reported = contender.answer(inputs)
            reports.extend(reported)
        else:
            with torch.no_grad(), MacCounter() as counter:  # inference_mode would hide the products from the counter
                answered = contender.plain(*inputs)
            counted += counter.macs
        outputs.append(answered)
    found = torch.cat(outputs)
    activities = np.array([report.activity for report in reports]) if reports else np.ones(len(found))
    hard = exam.hard(found)
    by_mask = (None, None) if hard is None else tuple(_mean(activities, part) for part in (hard, ~hard))
    return Result(
        contender,
        exam.mark(found),
        exam.n,
        macs=float(np.mean([report.macs for report in reports])) if reports else counted / len(found),
        macs_fixed=float(np.mean([report.macs_fixed for report in reports])) if reports else 0.0,
        activities=activities,
        hard=by_mask[0],
        easy=by_mask[1],
    )


def time_all(results: Sequence[Result], exam: Exam, batch: int, rounds: int, tick: Callable[[], None]) -> None:
    """Set ms[batch] of all results: the median over rounds of the ratio to the first result, times its best.

    Every round runs every network once, on the same request, so that a slow moment of the machine hits all alike.
    """
    requests = exam.requests[batch]
    runs = [[partial(result.contender.answer, inputs) for inputs in requests] for result in results]
    repeats = [_repeats(run) for run in runs]
    times = np.empty((rounds, len(results)))
    for i in range(rounds):
        for j, run in enumerate(runs):
            times[i, j] = _seconds(run, i, repeats[j])
        tick()
    best = times[:, 0].min()
    for j, result in enumerate(results):
        ratio = statistics.median(times[:, j] / times[:, 0])
        result.ms[batch] = float(ratio * best * 1e3 / batch)


def _seconds(run: Sequence[Callable[[], object]], first: int, repeats: int) -> float:
    """Seconds a call, over `repeats` calls that walk through the requests."""
    start = time.perf_counter()
    for k in range(repeats):
        run[(first * repeats + k) % len(run)]()
    return (time.perf_counter() - start) / repeats


def _repeats(run: Sequence[Callable[[], object]]) -> int:
    for call in run[:2]:
        call()  # compiles, fills caches
    return max(1, min(8, round(MIN_SLOT_S / max(_seconds(run, 0, 2), 1e-6))))


def _mean(values: np.ndarray[Any, np.dtype[np.float64]], where: Tensor) -> float | None:
    chosen = values[where.numpy()]
    return float(chosen.mean()) if len(chosen) else None
