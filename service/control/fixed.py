"""Fixed: control off. Baseline, fallback and test double in one."""

from __future__ import annotations

import math
from collections.abc import Iterable

from service.control.drain import head_batch
from service.control.types import (
    ADMITTED,
    Admission,
    BatchDone,
    Decision,
    Limit,
    ModelPlan,
    ModelState,
    QueuedItem,
    ReplicaView,
    Shed,
    ShedReason,
)


class Fixed:
    """Control off: one budget, whole batches in EDF order, nothing refused but what is past its deadline."""

    def __init__(self, plans: Iterable[ModelPlan] = (), budget: float = 1.0) -> None:
        self.budget = budget
        self._plans = {plan.name: plan for plan in plans}

    def set_model(self, plan: ModelPlan) -> None:
        self._plans[plan.name] = plan

    def remove_model(self, name: str) -> None:
        self._plans.pop(name, None)

    def state(self, model: str) -> ModelState:
        return ModelState(self._clip(self._plans[model]), 1.0, 0.0, 0.0)

    def on_batch_done(self, done: BatchDone) -> None:
        """Nothing to learn."""

    def admit(self, view: ReplicaView, item: QueuedItem) -> Admission:
        return ADMITTED

    def decide(self, view: ReplicaView) -> Decision | None:
        queued = [(name, queue) for name, queue in view.queues.items() if queue]
        if not queued:
            return None
        sheds = [Shed(item, ShedReason.DEADLINE) for _, queue in queued for item in queue.expired(view.now_s)]
        gone = {shed.item.sequence for shed in sheds}
        rest = {name: [item for item in queue.items if item.sequence not in gone] for name, queue in queued}
        name = min(rest, key=lambda model: rest[model][0].deadline_s if rest[model] else math.inf)
        plan = self._plans[name]
        budget = self._clip(plan)
        batch = head_batch(rest[name], plan.max_batch) if rest[name] else ()
        if not batch:
            return Decision(name, (), budget, sheds=tuple(sheds))
        rows = sum([item.rows for item in batch])
        seconds = plan.profile.seconds(sum([item.rows * item.clip(budget) for item in batch]) / rows, rows)
        limit = Limit.NONE if budget >= plan.max_budget else Limit.OPERATOR
        return Decision(name, batch, budget, seconds, seconds, sheds=tuple(sheds), limit=limit)

    def _clip(self, plan: ModelPlan) -> float:
        return min(max(self.budget, plan.min_budget), plan.max_budget)
