"""Shadow: one law acts, another one decides on the same views and is only watched."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import StrEnum

from service.control.types import Admission, BatchDone, Decision, ModelPlan, ModelState, Policy, QueuedItem, ReplicaView

log = logging.getLogger(__name__)

SAME_BUDGET = 0.01


class Verdict(StrEnum):
    """What the watched law would have done with a dispatch, or (REFUSE) with an arrival."""

    AGREE = "agree"  # the same budget, nothing dropped
    LOWER = "lower"
    SHED = "shed"
    REFUSE = "refuse"
    FAILED = "failed"  # it raised


class Shadow:
    """acting: whose word counts. watched: sees the same, learns from the same batches, does nothing.

    last: what the watched law decided at the last dispatch, None if it failed. tell: hears (model, verdict) of every
    dispatch, and of arrivals that the watched law would have refused. What the watched law raises is logged.
    """

    def __init__(self, acting: Policy, watched: Policy, tell: Callable[[str, Verdict], None] | None = None) -> None:
        self._acting = acting
        self._watched = watched
        self._tell = tell or (lambda model, verdict: None)
        self.last: Decision | None = None

    def set_model(self, plan: ModelPlan) -> None:
        self._acting.set_model(plan)
        self._watched.set_model(plan)

    def remove_model(self, name: str) -> None:
        self._acting.remove_model(name)
        self._watched.remove_model(name)

    def admit(self, view: ReplicaView, item: QueuedItem) -> Admission:
        try:
            if not self._watched.admit(view, item).ok:
                self._tell(item.model, Verdict.REFUSE)
        except Exception:
            self._failed(item.model, "judge an arrival")
        return self._acting.admit(view, item)

    def decide(self, view: ReplicaView) -> Decision | None:
        decision, self.last = self._acting.decide(view), None
        if decision is None:
            return None
        try:
            self.last = self._watched.decide(view)
        except Exception:
            self._failed(decision.model, "decide")
        if self.last is not None:
            verdict = _verdict(decision, self.last)
            self._tell(decision.model, verdict)
            log.debug("shadow: %s, budget %.3f, %d shed", verdict, self.last.budget, len(self.last.sheds))
        return decision

    def on_batch_done(self, done: BatchDone) -> None:
        self._acting.on_batch_done(done)
        try:
            self._watched.on_batch_done(done)
        except Exception:
            self._failed(done.model, "learn from a batch")

    def state(self, model: str, now_s: float | None = None) -> ModelState:
        """Of the watched law: what a dashboard wants to see before it is let loose."""
        return self._watched.state(model, now_s)

    def _failed(self, model: str, what: str) -> None:
        log.exception("the watched law could not %s", what)
        self._tell(model, Verdict.FAILED)


def _verdict(acted: Decision, watched: Decision) -> Verdict:
    if watched.sheds:
        return Verdict.SHED
    return Verdict.LOWER if watched.budget < acted.budget - SAME_BUDGET else Verdict.AGREE
