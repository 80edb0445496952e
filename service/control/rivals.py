"""The laws that DrainFeasible is compared with; for the simulator only. Each is a re-implementation from its paper.

All form batches in EDF order and drop what is past its deadline; none has an admission test, as published.
"""

from __future__ import annotations

from service.control.fixed import Fixed
from service.control.lane import head_batch
from service.control.types import Decision, ModelPlan, QueuedItem, ReplicaView


class SlackFit(Fixed):
    """SuperServe's SlackFit (NSDI 2025): per dispatch, the bucket of service time just below the head's slack.

    Offline the range of batch times is cut into `buckets` even parts, each keeping its largest batch, then its highest
    budget. margin: share of the slack left unused (the paper has none). adapted: where fewer are queued than the bucket
    holds, spend its time on these; the paper's law spends the accuracy of a full batch on them.
    """

    def __init__(self, plan: ModelPlan, margin: float = 0.0, buckets: int = 16, adapted: bool = False) -> None:
        super().__init__([plan])
        self.plan = plan
        self.margin = margin
        self.adapted = adapted
        self.max_rows = plan.max_batch
        self._choices = _buckets(plan, buckets)

    def decide(self, view: ReplicaView) -> Decision | None:
        items = view.queues[self.plan.name].items
        if items:
            slack = (items[0].deadline_s - view.now_s) * (1.0 - self.margin)
            seconds, rows, budget = self._choices[0]
            for choice in self._choices:
                if choice[0] <= slack:
                    seconds, rows, budget = choice
            if self.adapted and len(items) < rows:
                budget = self.plan.profile.budget_for(seconds, len(items))
            self.budget = budget
            self.max_rows = rows
        return super().decide(view)

    def _batch(self, items: list[QueuedItem], plan: ModelPlan) -> tuple[QueuedItem, ...]:
        return head_batch(items, self.max_rows)


def _buckets(plan: ModelPlan, count: int) -> list[tuple[float, int, float]]:
    """(seconds, rows, budget), ascending in seconds, one per non-empty bucket."""
    budgets = [plan.min_budget + i * (plan.max_budget - plan.min_budget) / 19 for i in range(20)]
    options = [
        (plan.profile.seconds(budget, rows), rows, budget)
        for rows in range(1, plan.max_batch + 1)
        for budget in budgets
    ]
    low, high = min(options)[0], max(options)[0]
    best: dict[int, tuple[float, int, float]] = {}
    for option in options:
        bucket = min(count - 1, int((option[0] - low) / (high - low) * count))
        kept = best.get(bucket)
        if kept is None or (option[1], option[2]) > (kept[1], kept[2]):
            best[bucket] = option
    return [best[bucket] for bucket in sorted(best)]


class Dimmer(Fixed):
    """Klein's brownout dimmer (ICSE 2014), continuous: theta moves the budget, by the slowest response lately.

    alpha = t / theta; error = setpoint - t, a tenth of it when positive; theta += (1 - pole) / alpha * error.
    setpoint_ratio: in default deadlines; the published 1 s, every 1 s over 5 s, is for web pages.
    """

    def __init__(
        self, plan: ModelPlan, setpoint_ratio: float = 0.6, pole: float = 0.9, period_s: float = 0.05, window: float = 5
    ) -> None:
        super().__init__([plan])
        self.plan = plan
        self.setpoint_s = setpoint_ratio * plan.default_deadline_s
        self.pole = pole
        self.period_s = period_s
        self.window_s = window * period_s
        self.theta = 0.5
        self._next_s = 0.0
        self._latencies: list[tuple[float, float]] = []
        self._dispatched: list[QueuedItem] = []

    def decide(self, view: ReplicaView) -> Decision | None:
        self._control(view.now_s)
        self.budget = self.plan.min_budget + self.theta * (self.plan.max_budget - self.plan.min_budget)
        decision = super().decide(view)
        if decision is not None:
            waited = [view.now_s - item.arrival_s + decision.predicted_s for item in decision.batch]
            waited += [view.now_s - shed.item.arrival_s for shed in decision.sheds]
            self._latencies.extend((view.now_s, latency) for latency in waited)
        return decision

    def _control(self, now_s: float) -> None:
        if now_s < self._next_s:
            return
        self._next_s = now_s + self.period_s
        self._latencies = [entry for entry in self._latencies if entry[0] >= now_s - self.window_s]
        if not self._latencies:
            return
        slowest = max(latency for _, latency in self._latencies)
        error = self.setpoint_s - slowest
        alpha = slowest / max(self.theta, 0.01)
        self.theta += (1 - self.pole) / max(alpha, 1e-9) * (0.1 * error if error > 0 else error)
        self.theta = min(max(self.theta, 0.0), 1.0)


class Aimd(Fixed):
    """BrownoutServe's rule (arXiv 2507.17133): P90 over the deadline cuts theta by a fifth, under 0.8 of it adds 0.1.

    Published: every 5 s. period_s and setpoint_ratio are what tuning may change.
    """

    def __init__(self, plan: ModelPlan, period_s: float = 5.0, setpoint_ratio: float = 1.0) -> None:
        super().__init__([plan])
        self.plan = plan
        self.period_s = period_s
        self.setpoint_s = setpoint_ratio * plan.default_deadline_s
        self.theta = 1.0
        self._next_s = period_s
        self._latencies: list[float] = []

    def decide(self, view: ReplicaView) -> Decision | None:
        if view.now_s >= self._next_s:
            self._next_s = view.now_s + self.period_s
            self._adjust()
        self.budget = self.plan.min_budget + self.theta * (self.plan.max_budget - self.plan.min_budget)
        decision = super().decide(view)
        if decision is not None:
            self._latencies += [view.now_s - item.arrival_s + decision.predicted_s for item in decision.batch]
            self._latencies += [view.now_s - shed.item.arrival_s for shed in decision.sheds]
        return decision

    def _adjust(self) -> None:
        if not self._latencies:
            return
        p90 = sorted(self._latencies)[int(0.9 * (len(self._latencies) - 1))]
        self._latencies.clear()
        if p90 > self.setpoint_s:
            self.theta *= 0.8
        elif p90 < 0.8 * self.setpoint_s:
            self.theta = min(1.0, self.theta + 0.1)
