"""The live view in the terminal: rate, latency, budget, activity and accuracy of the last second."""

from __future__ import annotations

from types import TracebackType

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from loadtests.answers import FAILED, TURNED_AWAY, Outcome
from loadtests.records import Recorder, mean, percentile

WINDOW_S = 1.0
BLOCKS = "▁▂▃▄▅▆▇█"


class LiveView:
    """Redraws one line of figures and a short history of the budget. Silent where the output is not a terminal."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._budgets: list[float] = []

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, now: float, recorder: Recorder) -> None:
        if self._live is None:
            return
        recent = (recorder.done > now - WINDOW_S) & (recorder.done <= now + WINDOW_S)
        offered = ((recorder.intended > now - WINDOW_S) & (recorder.intended <= now)).sum() / WINDOW_S
        answered = recent & (recorder.outcome == Outcome.OK)
        latency = (recorder.done - recorder.intended)[answered]
        budget = mean(recorder.numbers["quality_budget"][answered])
        self._budgets = [*self._budgets, 0.0 if np.isnan(budget) else budget][-40:]
        table = Table(
            *("offered/s", "answered/s", "p99 ms", "refused", "failed", "budget", "activity", "accuracy"),
            "budget, last 10 s",
        )
        table.add_row(
            f"{offered:.0f}",
            f"{answered.sum() / WINDOW_S:.0f}",
            f"{percentile(latency, 99) * 1e3:.1f}",
            f"{int((recent & np.isin(recorder.outcome, TURNED_AWAY)).sum())}",
            f"{int((recent & np.isin(recorder.outcome, FAILED)).sum())}",
            f"{budget:.2f}",
            f"{mean(recorder.numbers['quality_activity'][answered]):.2f}",
            f"{mean(recorder.score[answered]):.3f}",
            "".join(BLOCKS[min(7, int(value * 8))] for value in self._budgets),
        )
        self._live.update(table)
