"""What a run recorded, one row a request, and the figures drawn from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from loadtests.answers import Answer, Outcome

Floats = NDArray[np.float64]
MAX_TEXTS = 1000  # different ones that are counted
NUMBERS = ("quality_budget", "quality_activity", "compute_macs", "compute_macs_dense", "quality_expected")


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a service's processes. at: seconds since the run began; mib: resident, a page that several share in each."""

    at: Floats
    mib: Floats

    @property
    def first(self) -> float:
        return float(self.mib[0])

    @property
    def peak(self) -> float:
        return float(self.mib.max())

    @property
    def growth(self) -> float:
        """Median of the last quarter over that of the second, minus 1; in the first one queues and caches fill."""
        second, last = (self.mib[part * self.mib.size // 4 : (part + 1) * self.mib.size // 4] for part in (1, 3))
        return float(np.median(last) / np.median(second)) - 1.0 if second.size and last.size else float("nan")


@dataclass(frozen=True, slots=True)
class Run:
    """Arrays over requests, in order of intended send time (seconds from the start).

    sent: when it really left; done: when the answer was complete; score: 1 right, 0 wrong (or a similarity), nan
    without an answer; numbers: response parameters by name, nan where absent; deadline: relative, seconds.
    messages: (outcome, what was said, how often) of whatever was not served. began: by time.perf_counter().
    memory: None where the service's processes are not known. variant: which kind of request each was.
    """

    intended: Floats
    sent: Floats
    done: Floats
    outcome: NDArray[np.int8]
    score: Floats
    retry_after: Floats
    numbers: dict[str, Floats]
    deadline: Floats
    messages: tuple[tuple[Outcome, str, int], ...] = ()
    began: float = 0.0
    memory: Memory | None = None
    variant: NDArray[np.int64] | None = None

    def only(self, which: NDArray[np.bool_]) -> Run:
        """The run of these requests alone; messages and memory stay with the whole."""
        numbers = {name: column[which] for name, column in self.numbers.items()}
        columns = (self.intended, self.sent, self.done, self.outcome, self.score, self.retry_after)
        return Run(*(column[which] for column in columns), numbers, self.deadline[which], began=self.began)

    @property
    def latency(self) -> Floats:
        """Seconds from the intended send time: a stalled client or server cannot hide its stall."""
        return self.done - self.intended

    @property
    def on_time(self) -> NDArray[np.bool_]:
        return (self.outcome == Outcome.OK) & (self.latency <= self.deadline)


class Recorder:
    """Filled while a run goes on; `finish` freezes it. began: of the run, by time.perf_counter()."""

    def __init__(self, intended: Floats, deadline: Floats, began: float = 0.0) -> None:
        size = len(intended)
        self.began = began
        self.intended = intended
        self.deadline = deadline
        self.sent = np.full(size, np.nan)
        self.done = np.full(size, np.nan)
        self.outcome = np.full(size, Outcome.LOST, np.int8)
        self.score = np.full(size, np.nan)
        self.retry_after = np.zeros(size)
        self.numbers = {name: np.full(size, np.nan) for name in NUMBERS}
        self._messages: Counter[tuple[Outcome, str]] = Counter()
        self.finished = 0

    def record(self, index: int, done: float, answer: Answer, score: float) -> None:
        self.done[index] = done
        self.outcome[index] = answer.outcome
        self.score[index] = score
        self.retry_after[index] = answer.retry_after_s
        for name, column in self.numbers.items():
            column[index] = answer.parameters.get(name, np.nan)
        if answer.outcome != Outcome.OK:
            said = answer.outcome, answer.said
            if said in self._messages or len(self._messages) < MAX_TEXTS:
                self._messages[said] += 1
        self.finished += 1

    def finish(self) -> Run:
        return Run(
            self.intended,
            self.sent,
            self.done,
            self.outcome,
            self.score,
            self.retry_after,
            self.numbers,
            self.deadline,
            tuple((outcome, text, count) for (outcome, text), count in self._messages.items()),
            self.began,
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """A run, or a stretch of it, in numbers. Ratios are of all requests; effective accuracy counts late as wrong."""

    requests: int
    duration_s: float
    offered_rps: float
    goodput_rps: float
    on_time_ratio: float
    late_ratio: float
    refused_ratio: float
    expired_ratio: float
    error_ratio: float
    lost_ratio: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    accuracy: float
    effective_accuracy: float
    budget_mean: float
    activity_mean: float
    macs_mean: float
    refusal_p99_ms: float
    client_lateness_p99_ms: float

    def to_json(self) -> dict[str, float | int | None]:
        return {name: None if isinstance(v, float) and np.isnan(v) else v for name, v in asdict(self).items()}


def summarise(run: Run, start: float = 0.0, end: float | None = None) -> Summary:
    """Figures over the requests whose intended time lies in [start, end)."""
    end = float(run.intended[-1]) + 1e-9 if end is None and run.intended.size else (end or 0.0)
    inside = (run.intended >= start) & (run.intended < end)
    count = int(inside.sum())
    span = max(end - start, 1e-9)
    outcome, latency, on_time = run.outcome[inside], run.latency[inside], run.on_time[inside]
    answered = outcome == Outcome.OK
    histogram = latency_histogram(latency[answered])
    refused = outcome == Outcome.REFUSED

    def share(selected: NDArray[np.bool_]) -> float:
        return float(selected.mean()) if count else float("nan")

    return Summary(
        requests=count,
        duration_s=span,
        offered_rps=count / span,
        goodput_rps=float(on_time.sum()) / span,
        on_time_ratio=share(on_time),
        late_ratio=share(answered & ~on_time),
        refused_ratio=share(refused),
        expired_ratio=share(outcome == Outcome.EXPIRED),
        error_ratio=share(outcome == Outcome.ERROR),
        lost_ratio=share(outcome == Outcome.LOST),
        p50_ms=histogram.get_value_at_percentile(50) / 1e3,
        p95_ms=histogram.get_value_at_percentile(95) / 1e3,
        p99_ms=histogram.get_value_at_percentile(99) / 1e3,
        max_ms=histogram.get_max_value() / 1e3,
        accuracy=mean(run.score[inside][answered]),
        effective_accuracy=float(np.nansum(run.score[inside][on_time])) / count if count else float("nan"),
        budget_mean=mean(run.numbers["quality_budget"][inside]),
        activity_mean=mean(run.numbers["quality_activity"][inside]),
        macs_mean=mean(run.numbers["compute_macs"][inside]),
        refusal_p99_ms=percentile((run.done - run.sent)[inside][refused], 99) * 1e3,
        client_lateness_p99_ms=percentile((run.sent - run.intended)[inside], 99) * 1e3,
    )


def latency_histogram(latency_s: Floats) -> HdrHistogram:
    """HDR histogram in microseconds, up to ten minutes, three digits."""
    histogram = HdrHistogram(1, 600_000_000, 3)
    for value in latency_s:
        histogram.record_value(max(1, int(value * 1e6)))
    return histogram


def mean(values: Floats) -> float:
    return float(np.nanmean(values)) if values.size and not np.isnan(values).all() else float("nan")


def percentile(values: Floats, share: float) -> float:
    values = values[~np.isnan(values)]
    return float(np.percentile(values, share)) if values.size else float("nan")
