"""Shadow: one law acts, another one decides on the same views and is only watched."""

from __future__ import annotations

from dataclasses import dataclass

from service.control.types import Admission, BatchDone, Decision, ModelPlan, ModelState, Policy, QueuedItem, ReplicaView


@dataclass(slots=True)
class ShadowCounts:
    """What the watched law would have done otherwise."""

    decisions: int = 0
    lower_budgets: int = 0
    refusals: int = 0
    sheds: int = 0


class Shadow:
    """acting: whose word counts. watched: sees the same, learns from the same batches, does nothing."""

    def __init__(self, acting: Policy, watched: Policy) -> None:
        self._acting = acting
        self._watched = watched
        self.counts = ShadowCounts()
        self.last: Decision | None = None

    def set_model(self, plan: ModelPlan) -> None:
        self._acting.set_model(plan)
        self._watched.set_model(plan)

    def remove_model(self, name: str) -> None:
        self._acting.remove_model(name)
        self._watched.remove_model(name)

    def admit(self, view: ReplicaView, item: QueuedItem) -> Admission:
        self.counts.refusals += not self._watched.admit(view, item).ok
        return self._acting.admit(view, item)

    def decide(self, view: ReplicaView) -> Decision | None:
        decision, self.last = self._acting.decide(view), self._watched.decide(view)
        if decision is not None and self.last is not None:
            self.counts.decisions += 1
            self.counts.lower_budgets += self.last.budget < decision.budget
            self.counts.sheds += len(self.last.sheds)
        return decision

    def on_batch_done(self, done: BatchDone) -> None:
        self._acting.on_batch_done(done)
        self._watched.on_batch_done(done)

    def state(self, model: str, now_s: float | None = None) -> ModelState:
        """Of the watched law: what a dashboard wants to see before it is let loose."""
        return self._watched.state(model, now_s)
