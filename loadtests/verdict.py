"""What a scenario had to show and whether it did: figures against targets, never softened."""

from __future__ import annotations

from dataclasses import dataclass

from loadtests.play import ADAPTIVE, FIXED, Disturbance, Played
from loadtests.scenarios import REPLICA_KILL, SOAK, Unit

ON_TIME_TARGET = 0.995
FIXED_ON_TIME_LIMIT = 0.60
ACCURACY_LOSS_TARGET = 0.015
GOODPUT_TARGET = 0.85
LATE_TARGET = 0.01
GROWTH_LIMIT = 0.03


@dataclass(frozen=True, slots=True)
class Check:
    """One target: what was wanted, what was got."""

    claim: str
    wanted: str
    got: str
    passed: bool


def checks(played: Played) -> list[Check]:
    """The scenario's targets against its figures."""
    if played.disturbance is not None:
        return _disturbed(played, played.disturbance)
    if played.scenario.unit is Unit.FLOOR:
        return _overload(played)
    on_time = played.average(ADAPTIVE, "on_time_ratio")
    loss = played.yardstick.full_accuracy - played.average(ADAPTIVE, "effective_accuracy")
    results = [
        Check("answered before the deadline", f">= {ON_TIME_TARGET:.1%}", f"{on_time:.2%}", on_time >= ON_TIME_TARGET),
        Check(
            "effective accuracy lost against full quality",
            f"<= {ACCURACY_LOSS_TARGET * 100:.1f} points",
            f"{loss * 100:.2f} points",
            loss <= ACCURACY_LOSS_TARGET,
        ),
    ]
    if played.of(FIXED) and played.scenario.name in {"step", "spike"}:
        fixed = played.average(FIXED, "on_time_ratio")
        results.append(
            Check("fixed full budget falls over", f"< {FIXED_ON_TIME_LIMIT:.0%} on time", f"{fixed:.2%}", fixed < 0.6)
        )
    if played.scenario.name == SOAK:
        results.append(_flat_memory(played))
    return results


def _overload(played: Played) -> list[Check]:
    floor_rps = played.yardstick.capacity.rate
    goodput = played.average(ADAPTIVE, "goodput_rps") / floor_rps if floor_rps else 0.0
    late = played.average(ADAPTIVE, "late_ratio")
    lost = played.average(ADAPTIVE, "lost_ratio")
    refused_ms, deadline_ms = played.average(ADAPTIVE, "refusal_p99_ms"), played.yardstick.deadline_s * 1e3
    return [
        Check("goodput of floor capacity", f">= {GOODPUT_TARGET:.0%}", f"{goodput:.1%}", goodput >= GOODPUT_TARGET),
        Check("late answers", f"<= {LATE_TARGET:.0%}", f"{late:.2%}", late <= LATE_TARGET),
        Check("requests without an answer", "0", f"{lost:.2%}", lost == 0.0),
        Check(
            "refusals said within the deadline, p99",
            f"<= {deadline_ms:.0f} ms",
            f"{refused_ms:.0f} ms",
            not refused_ms > deadline_ms,  # nan: nobody was refused
        ),
        _flat_memory(played),
    ]


def _flat_memory(played: Played) -> Check:
    """The largest growth within a block; a service whose processes are not known here was not shown to be flat."""
    growths = [memory.growth for memory in played.memories(ADAPTIVE)]
    got = f"{max(growths):+.1%}" if growths else "not measured: without --pid a service is not known"
    return Check(
        "memory grows, last quarter against the second",
        f"<= {GROWTH_LIMIT:.0%}",
        got,
        bool(growths) and max(growths) <= GROWTH_LIMIT,
    )


def _disturbed(played: Played, disturbance: Disturbance) -> list[Check]:
    """A refusal tells its client when to come back; it is shown, and no failure."""
    ended = played.outcomes(ADAPTIVE)
    beside = f"refused {ended.refused}, expired {ended.expired}"
    if played.scenario.name == REPLICA_KILL:
        whole = disturbance.new >= disturbance.gone >= 1
        return [
            Check("requests without an answer", "0", f"{ended.lost}; errors {ended.error}, {beside}", ended.lost == 0),
            Check("killed replica replaced", "1", f"{disturbance.new} of {disturbance.gone}", whole),
        ]
    whole = disturbance.gone == disturbance.replicas <= disturbance.new
    failed = f"errors {ended.error}, without an answer {ended.lost}"
    return [
        Check("requests that failed", "0", f"{failed}; {beside}", ended.failed == 0),
        Check("replicas replaced", f"{disturbance.replicas}", f"{min(disturbance.gone, disturbance.new)}", whole),
    ]


def conclusion(played: Played) -> str:
    """One line: passed, missed, or not to be trusted."""
    if played.noisy:
        return "noisy: " + "; ".join(played.noisy)
    missed = [check.claim for check in checks(played) if not check.passed]
    return "all targets met" if not missed else "missed: " + ", ".join(missed)
