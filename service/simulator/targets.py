"""The targets of the law, judged on runs: each with its figure, its goal, and whether it is met."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from service.control.policy import DrainFeasible
from service.simulator.report import Scenario, Summary, record_of
from service.simulator.shapes import constant

LAW = "drain-feasible"
OVERLOADS = (1.5, 2.0, 3.0)  # of what the floor can serve


@dataclass(frozen=True, slots=True)
class Target:
    """at_least: whether `goal` is a lower bound of `value`, else an upper one."""

    name: str
    value: float
    goal: float
    at_least: bool

    @property
    def met(self) -> bool:
        return self.value >= self.goal if self.at_least else self.value <= self.goal


def judge(summaries: Sequence[Summary]) -> Iterator[Target]:
    """What the runs of the law, and of the rivals that ran beside it, show. Of several SlackFits the best counts."""
    by_name = {summary.policy: summary for summary in summaries}
    law = by_name.get(LAW)
    if law is None:
        return
    yield Target("attainment, mean", law.attainment, 0.999, True)
    yield Target("attainment, worst run", law.worst, 0.995, True)
    slackfits = [summary for name, summary in by_name.items() if name.startswith("slackfit")]
    dimmers = [summary for name, summary in by_name.items() if name.startswith("dimmer")]
    for rival, runs, misses, accuracy in (("SlackFit", slackfits, 1 / 2, 1.2), ("dimmer", dimmers, 1 / 20, 2.0)):
        if runs:
            fewest, best = min(one.misses for one in runs), max(one.normalised_accuracy for one in runs)
            yield Target(f"misses / fewest of a {rival}", law.misses / max(fewest, 1e-9), misses, False)
            if best > 0.0:
                yield Target(f"NEA / best of a {rival}", law.normalised_accuracy / best, accuracy, True)
    if law.regret is not None:
        yield Target("regret to the clairvoyant bound", law.regret, 0.05, False)


def judge_overload(scenario: Scenario, seed: int) -> Iterator[Target]:
    """Constant load beyond what the floor can serve."""
    for multiple in OVERLOADS:
        shape = constant(multiple * scenario.scale.floor / scenario.scale.full)
        run = scenario.simulate(DrainFeasible([scenario.plant.plan]), scenario.workload("constant", seed, shape), seed)
        record = record_of(run, LAW, seed, scenario)
        at = f"at {multiple:g}x the floor's capacity"
        yield Target(f"goodput / capacity {at}", record.goodput_ratio, 0.95, True)
        yield Target(f"late answers {at}", record.late_ratio, 0.01, False)
        yield Target(f"time to a refusal {at}, p99, deadlines", record.refusal_ratio, 0.2, False)
