"""Governor: the policy that the scheduler asks. It lets the configured law act, or only watches it, and survives it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace

from service.control import types as t
from service.control.fixed import Fixed
from service.control.shadow import Shadow, Verdict

log = logging.getLogger(__name__)

FAILED = "the policy failed"


class Governor:
    """A Policy that never raises and never leaves a queue without a decision.

    law: the configured policy. While shadowed it is only watched, and the highest allowed budget is served. Where it
    raises or decides nothing, one decision is made without it, at everybody's floor and with `alert` set; an arrival
    that it cannot judge is admitted. tell: hears of every verdict on a watched law, with the model's name.
    """

    def __init__(self, law: t.Policy, tell: Callable[[str, Verdict], None] | None = None) -> None:
        self._law = law
        self._floor = Fixed(budget=0.0)
        self._full = Fixed()
        self._shadow = Shadow(self._full, law, tell)
        self._acting = law
        self._models: set[str] = set()
        self.wanted_budget = 1.0  # of the law at its last decision, obeyed or not

    def shadow(self, on: bool) -> None:
        """on: watch the law from the next call on; else let it act."""
        self._acting = self._shadow if on else self._law

    def set_model(self, plan: t.ModelPlan) -> None:
        self._models.add(plan.name)
        for policy in (self._law, self._floor, self._full):
            policy.set_model(plan)

    def remove_model(self, name: str) -> None:
        self._models.discard(name)
        for policy in (self._law, self._floor, self._full):
            policy.remove_model(name)

    def admit(self, view: t.ReplicaView, item: t.QueuedItem) -> t.Admission:
        try:
            return self._acting.admit(view, item)
        except Exception:
            log.exception("the policy could not judge an arrival; admitting it")
            return t.ADMITTED

    def decide(self, view: t.ReplicaView) -> t.Decision | None:
        try:
            decision = self._acting.decide(view)
        except Exception:
            log.exception("the policy failed; dispatching at the floor")
            return self.fall_back(view)
        if decision is None or not self._usable(decision):
            return self.fall_back(view)
        watched = self._shadow.last if self._acting is self._shadow else None
        self.wanted_budget = decision.budget if watched is None else watched.budget
        return decision

    def fall_back(self, view: t.ReplicaView) -> t.Decision | None:
        """The next batch at its lowest budget, whatever the law says; None when nothing is queued."""
        decision = self._floor.decide(view)
        if decision is None:
            return None
        self.wanted_budget = decision.budget
        return replace(decision, limit=t.Limit.LOAD, at_floor=True, alert=FAILED)

    def on_batch_done(self, done: t.BatchDone) -> None:
        try:
            self._acting.on_batch_done(done)
        except Exception:
            log.exception("the policy could not learn from a batch")

    def state(self, model: str, now_s: float | None = None) -> t.ModelState:
        try:
            return self._acting.state(model, now_s)
        except Exception:
            log.exception("the policy could not tell its state")
            return replace(self._floor.state(model, now_s), alert=FAILED)

    def _usable(self, decision: t.Decision) -> bool:
        does_something = decision.batch or decision.sheds or decision.deferred
        return bool(does_something) and decision.model in self._models and math.isfinite(decision.budget)
