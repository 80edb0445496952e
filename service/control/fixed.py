"""Fixed: control off. Baseline, fallback and test double in one."""

from __future__ import annotations

import math
from collections.abc import Iterable

from service.control.lane import head_batch
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

    def state(self, model: str, now_s: float | None = None) -> ModelState:
        return ModelState(self._clip(self._plans[model]), 1.0, 0.0, 0.0)

    def on_batch_done(self, done: BatchDone) -> None:
        """Nothing to learn."""

    def admit(self, view: ReplicaView, item: QueuedItem) -> Admission:
        return ADMITTED

    def decide(self, view: ReplicaView) -> Decision | None:
        queued = {name: list(queue.items) for name, queue in view.queues.items() if queue}
        if not queued:
            return None
        expired = [item for queue in view.queues.values() for item in queue.expired(view.now_s)]
        if expired:
            gone = {item.sequence for item in expired}
            queued = {name: [item for item in items if item.sequence not in gone] for name, items in queued.items()}
        sheds = tuple([Shed(item, ShedReason.DEADLINE) for item in expired])
        name = min(queued, key=lambda model: queued[model][0].deadline_s if queued[model] else math.inf)
        plan = self._plans[name]
        budget = self._clip(plan)
        if not queued[name]:
            return Decision(name, (), budget, sheds=sheds)
        batch = self._batch(queued[name], plan)
        rows = sum([item.rows for item in batch])
        seconds = plan.profile.seconds(sum([item.rows * item.clip(budget) for item in batch]) / rows, rows)
        limit = Limit.NONE if budget >= plan.max_budget else Limit.OPERATOR
        return Decision(name, batch, budget, seconds, seconds, sheds=sheds, limit=limit)

    def _batch(self, items: list[QueuedItem], plan: ModelPlan) -> tuple[QueuedItem, ...]:
        return head_batch(items, plan.max_batch)

    def _clip(self, plan: ModelPlan) -> float:
        return min(max(self.budget, plan.min_budget), plan.max_budget)
