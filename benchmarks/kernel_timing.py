"""Best of interleaved rounds: every contender runs once a round, so that a noisy moment hits all of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.kernel_cases import Case

MIN_ROUNDS = 3


@dataclass(frozen=True)
class Record:
    """One measured point. dense: which dense variant was the faster one; *_speedup: against it."""

    shape: str
    rows: int
    mask: str
    density: float
    active_share: float
    dense_ms: float
    ours_ms: float
    speedup: float
    share_of_ideal: float
    kernel: str
    dense: str
    control_ms: float
    control_speedup: float
    ideal: float
    gflops: float
    gbytes: float
    rounds: int


class DenseBaseline:
    """The ungated block in torch: eager, and compiled where torch.compile finds a C++ compiler."""

    def __init__(self, compiled: bool, console: Console) -> None:
        self._compiled: dict[Callable[..., Tensor], Callable[..., Tensor]] = {}
        self._wanted = compiled and shutil.which("g++") is not None
        self._console = console
        if compiled and not self._wanted:
            console.print("no C++ compiler: dense is torch eager only")

    def variants(self, case: Case) -> dict[str, Callable[[], Tensor]]:
        """Name -> call, each run once already."""
        found: dict[str, Callable[[], Tensor]] = {"eager": lambda: case.dense(*case.inputs)}
        if self._wanted:
            try:
                compiled = self._compile(case.dense)
                compiled(*case.inputs)
                found["compile"] = lambda: compiled(*case.inputs)
            except Exception as error:  # torch.compile fails in many ways; the benchmark goes on and says so
                self._wanted = False
                self._console.print(f"torch.compile failed, dense is torch eager only: {type(error).__name__}")
        found["eager"]()
        return found

    def _compile(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if function not in self._compiled:
            self._compiled[function] = torch.compile(function, dynamic=True)
        return self._compiled[function]


def measure(case: Case, baseline: DenseBaseline, seconds: float, most_rounds: int) -> Record:
    """Time dense, ours and the mask-multiply control side by side for about `seconds` or `most_rounds`."""
    calls: dict[str, Callable[[], Any]] = dict(baseline.variants(case))
    calls["ours"], calls["control"] = case.ours, case.control
    kernel = case.ours()
    case.control()
    best, rounds = _best(calls, seconds, most_rounds)
    dense = min((name for name in best if name in ("eager", "compile")), key=lambda name: best[name])
    ideal = 1.0 / (case.active_share + case.gate_share)
    speedup = best[dense] / best["ours"]
    flops = 2 * case.macs_dense * (case.active_share + case.gate_share)
    return Record(
        shape=case.shape,
        rows=case.rows,
        mask=case.mask,
        density=case.density,
        active_share=round(case.active_share, 4),
        dense_ms=best[dense] * 1e3,
        ours_ms=best["ours"] * 1e3,
        speedup=speedup,
        share_of_ideal=speedup / ideal,
        kernel=kernel,
        dense=dense,
        control_ms=best["control"] * 1e3,
        control_speedup=best[dense] / best["control"],
        ideal=ideal,
        gflops=flops / best["ours"] / 1e9,
        gbytes=case.weight_bytes / best["ours"] / 1e9,
        rounds=rounds,
    )


def _best(calls: dict[str, Callable[[], Any]], seconds: float, most_rounds: int) -> tuple[dict[str, float], int]:
    best = dict.fromkeys(calls, float("inf"))
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < most_rounds and (rounds < MIN_ROUNDS or time.perf_counter() < end):
        for name, call in calls.items():
            # The first call of a turn refills the caches that the others emptied; the second one is timed.
            call()
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
        rounds += 1
    return best, rounds
