"""What a played scenario says in rows: the same in the terminal and on the report's page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loadtests.outcomes import LABELS, ends_of
from loadtests.play import ADAPTIVE, FIXED, Block, Disturbance, Played
from loadtests.records import Run, Summary, summarise
from loadtests.statistics import Interval, ratio_interval

WINDOW_S = 2.0  # of a pair that the ratios are resampled from
OVER = 1.05  # of the capacity: more than this is offered
FIGURES = (
    ("answered on time", "on_time_ratio", "{:.2%}"),
    ("effective accuracy (late and refused count as wrong)", "effective_accuracy", "{:.4f}"),
    ("accuracy of the answers", "accuracy", "{:.4f}"),
    ("goodput, requests/s", "goodput_rps", "{:.0f}"),
    ("offered, requests/s", "offered_rps", "{:.0f}"),
    ("p50, ms", "p50_ms", "{:.1f}"),
    ("p95, ms", "p95_ms", "{:.1f}"),
    ("p99, ms", "p99_ms", "{:.1f}"),
    ("late", "late_ratio", "{:.2%}"),
    ("refused at once", "refused_ratio", "{:.2%}"),
    ("p99 of a refusal, ms", "refusal_p99_ms", "{:.1f}"),
    ("given up after waiting", "expired_ratio", "{:.2%}"),
    ("errors", "error_ratio", "{:.2%}"),
    ("without an answer", "lost_ratio", "{:.2%}"),
    ("mean budget", "budget_mean", "{:.3f}"),
    ("mean activity", "activity_mean", "{:.3f}"),
    ("client sent late, p99 ms", "client_lateness_p99_ms", "{:.2f}"),
)
MEMORY = (
    ("memory at first, MiB (processes added up)", "first", "{:.0f}"),
    ("memory at most, MiB", "peak", "{:.0f}"),
    ("memory, last quarter against the second", "growth", "{:+.1%}"),
)
NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Rows:
    """A table. rows: the first cell names the row."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(played: Played) -> list[Rows]:
    """All that have anything to say, in the order of reading."""
    policies = policies_of(played)
    kinds = [kind.name for kind in played.scenario.mix]
    ratios = tuple((what, str(interval)) for what, interval in ratios_of(played).items())
    found = [
        Rows("How the requests ended", ("", *policies), tuple(_ends(played))),
        Rows("Mean over blocks", ("", *policies), tuple(_figures(played))),
        Rows("Adaptive over fixed, with 95 % bootstrap interval", ("", "ratio"), ratios),
        Rows("By kind of request, adaptive", KIND_HEAD, tuple(_kinds(played, kinds) if len(kinds) > 1 else ())),
    ]
    return [table for table in found if table.rows]


def policies_of(played: Played) -> list[str]:
    """Those that were played, ours first."""
    return [policy for policy in (ADAPTIVE, FIXED) if played.of(policy)]


def messages(played: Played) -> list[str]:
    """What requests were told that were not served: the most frequent texts of each end and policy."""
    return [
        f"{policy}: {LABELS[message.outcome]}, {message.count:,} times: {message.text}"
        for policy in policies_of(played)
        for message in played.outcomes(policy).messages
    ]


def _ends(played: Played) -> list[tuple[str, ...]]:
    """How requests ended, and their number for each policy."""
    if played.disturbance is not None:
        return _disturbed_ends(played.blocks[0].run, played.disturbance)
    ended = [played.outcomes(policy) for policy in policies_of(played)]
    return [(label, *(f"{getattr(one, name):,}" for one in ended)) for name, label in LABELS.items()]


def _disturbed_ends(run: Run, disturbance: Disturbance) -> list[tuple[str, ...]]:
    """With the seconds between which they were sent."""
    rows, ends = [], ends_of(run)
    for name, label in LABELS.items():
        sent = run.intended[ends[name]]
        span = f" (at {sent.min():.1f}-{sent.max():.1f} s)" if sent.size and name != "on_time" else ""
        rows.append((label, f"{sent.size:,}{span}"))
    return [*rows, ("last one not served, s after the disturbance", f"{disturbance.trouble_s:.1f}")]


def _figures(played: Played) -> list[tuple[str, ...]]:
    policies = policies_of(played)
    rows = [_row(label, form, [played.average(policy, field) for policy in policies]) for label, field, form in FIGURES]
    over_capacity = [over(played, policy) for policy in policies]
    rows.insert(1, _row("on time, of those sent while over capacity", "{:.2%}", over_capacity))
    for label, field, form in MEMORY:
        known = [[getattr(memory, field) for memory in played.memories(policy)] for policy in policies]
        rows.append(_row(label, form, [max(values, default=float("nan")) for values in known]))
    return rows


def _row(label: str, form: str, values: list[float]) -> tuple[str, ...]:
    return (label, *(NOTHING if np.isnan(value) else form.format(value) for value in values))


def over(played: Played, policy: str) -> float:
    """Share on time of the requests sent while more than the capacity was offered; nan if it never was."""
    capacity = played.yardstick.capacity.rate
    on_time = [
        item.run.on_time[played.scenario.load.rate(capacity, item.run.intended) > OVER * capacity]
        for item in played.of(policy)
    ]
    together = np.concatenate(on_time) if on_time else np.zeros(0)
    return float(together.mean()) if together.size else float("nan")


def ratios_of(played: Played) -> dict[str, Interval]:
    """Adaptive over fixed, from windows of the same seconds of the same schedule; empty without both."""
    fixed = {item.seed: item for item in played.of(FIXED)}
    pairs = [(item, fixed[item.seed]) for item in played.of(ADAPTIVE) if item.seed in fixed]
    if not pairs:
        return {}
    length_s = played.scenario.load.length_s
    ours, theirs = (np.concatenate([_windows(pair[side], length_s) for pair in pairs]) for side in (0, 1))
    return {
        "goodput": ratio_interval(list(ours[:, 0]), list(theirs[:, 0])),
        "effective accuracy": ratio_interval(list(ours[:, 1]), list(theirs[:, 1])),
    }


def _windows(item: Block, length_s: float) -> np.ndarray:
    """[windows, 2]: requests on time, and the sum of their scores."""
    run, edges = item.run, np.arange(0.0, length_s + WINDOW_S, WINDOW_S)
    on_time, _ = np.histogram(run.intended[run.on_time], edges)
    scored, _ = np.histogram(run.intended[run.on_time], edges, weights=run.score[run.on_time])
    return np.stack([on_time, np.nan_to_num(scored)], axis=1)


KIND_HEAD = ("", "requests", "on time", "late", "refused or given up", "p99, ms", "mean budget", "accuracy")


def _kinds(played: Played, names: list[str]) -> list[tuple[str, ...]]:
    rows = []
    for number, name in enumerate(names):
        parts = [summarise(item.run.only(item.run.variant == number)) for item in played.of(ADAPTIVE)]
        rows.append(
            (
                name,
                f"{sum(part.requests for part in parts):,}",
                f"{_mean(parts, 'on_time_ratio'):.2%}",
                f"{_mean(parts, 'late_ratio'):.2%}",
                f"{_mean(parts, 'refused_ratio') + _mean(parts, 'expired_ratio'):.2%}",
                f"{_mean(parts, 'p99_ms'):.1f}",
                f"{_mean(parts, 'budget_mean'):.3f}",
                f"{_mean(parts, 'accuracy'):.4f}",
            )
        )
    return rows


def _mean(parts: list[Summary], field: str) -> float:
    return float(np.mean([getattr(part, field) for part in parts]))
