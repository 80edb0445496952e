"""Shadow decides without acting; the rival laws do what their papers say."""

import dataclasses

import pytest

from service.control.edf import EdfQueue
from service.control.fixed import Fixed
from service.control.governor import Governor
from service.control.policy import DrainFeasible
from service.control.rivals import Aimd, Dimmer, SlackFit
from service.control.shadow import Shadow, Verdict
from service.control.types import BatchDone, Limit, QueuedItem, ReplicaView, ShedReason
from service.simulator.plant import reference_plant

PLAN = reference_plant().plan


def view(count, deadline=0.05, now=0.0, start=0):
    items = [QueuedItem("reference", now + deadline, now, start + i, floor=0.1) for i in range(count)]
    return ReplicaView(now, {"reference": EdfQueue(items)})


def test_shadow_acts_with_one_law_and_watches_the_other():
    verdicts = []
    shadow = Shadow(Fixed(), DrainFeasible(), lambda model, verdict: verdicts.append((model, verdict)))
    shadow.set_model(PLAN)
    assert shadow.decide(view(20)).budget == 1.0
    assert shadow.last.budget < 0.6
    assert shadow.decide(view(200)).budget == 1.0
    assert shadow.last.sheds
    assert verdicts == [("reference", Verdict.LOWER), ("reference", Verdict.SHED)]
    assert shadow.admit(view(0), QueuedItem("reference", 0.001, 0.0, 1, floor=0.1)).ok
    assert verdicts[2:] == [("reference", Verdict.REFUSE)]
    for step in range(8):  # the budget rises by a limited step
        shadow.decide(view(1, deadline=5.0, now=float(step)))
    assert verdicts[-1] == ("reference", Verdict.AGREE)
    shadow.on_batch_done(BatchDone("reference", 1, 0.01, 0.02, 0.0))
    assert shadow.state("reference").service_ratio > 1.3
    assert shadow.decide(view(0)) is None
    shadow.remove_model("reference")


class Defective(Fixed):
    """Raises wherever it is asked anything."""

    def admit(self, view, item):
        raise ZeroDivisionError("a defect")

    def decide(self, view):
        raise ZeroDivisionError("a defect")

    def on_batch_done(self, done):
        raise ZeroDivisionError("a defect")

    def state(self, model, now_s=None):
        raise ZeroDivisionError("a defect")


def test_a_watched_law_may_fail_without_any_effect():
    verdicts = []
    shadow = Shadow(Fixed(), Defective(), lambda model, verdict: verdicts.append(verdict))
    shadow.set_model(PLAN)
    assert shadow.decide(view(20)).budget == 1.0
    assert shadow.admit(view(0), QueuedItem("reference", 0.05, 0.0, 1, floor=0.1)).ok
    shadow.on_batch_done(BatchDone("reference", 1, 0.01, 0.02, 0.0))
    assert verdicts == [Verdict.FAILED] * 3
    assert shadow.last is None


def test_a_governor_outlives_a_law_that_fails_at_everything():
    governor = Governor(Defective())
    governor.set_model(PLAN)
    assert governor.admit(view(0), QueuedItem("reference", 0.05, 0.0, 1, floor=0.1)).ok
    decision = governor.decide(view(20))
    assert (decision.budget, decision.limit, decision.at_floor) == (0.1, Limit.LOAD, True)
    assert decision.alert
    assert len(decision.batch) == PLAN.max_batch
    governor.on_batch_done(BatchDone("reference", 1, 0.01, 0.02, 0.0))
    assert governor.state("reference").alert
    assert governor.decide(view(0)) is None
    pinned = QueuedItem("reference", 0.05, 0.0, 1, floor=1.0)
    assert governor.decide(ReplicaView(0.0, {"reference": EdfQueue([pinned])})).batch[0].clip(0.1) == 1.0


@pytest.mark.parametrize("broken", [{"batch": ()}, {"model": "unknown"}, {"budget": float("nan")}], ids=str)
def test_a_governor_does_not_obey_what_cannot_be_done(broken):
    class Wrong(Fixed):
        def decide(self, view):
            return dataclasses.replace(super().decide(view), **broken)

    governor = Governor(Wrong())
    governor.set_model(PLAN)
    decision = governor.decide(view(20))
    assert decision.alert
    assert decision.budget == governor.wanted_budget == 0.1
    assert decision.batch


def test_a_governor_lets_its_law_act_or_only_watches_it():
    governor = Governor(DrainFeasible())
    governor.set_model(PLAN)
    acting = governor.decide(view(20))
    assert acting.budget == governor.wanted_budget < 0.6
    governor.shadow(True)
    assert governor.decide(view(20)).budget == 1.0
    assert governor.wanted_budget < 0.6
    governor.on_batch_done(BatchDone("reference", 1, 0.01, 0.02, 0.0))
    assert governor.state("reference").service_ratio > 1.3  # what is watched goes on learning
    governor.shadow(False)
    assert governor.decide(view(20)).budget < 0.6
    governor.remove_model("reference")


def test_slackfit_takes_the_largest_bucket_below_the_heads_slack():
    law = SlackFit(PLAN)
    loose, tight = law.decide(view(8, 0.05)), law.decide(view(8, 0.02))
    assert loose.predicted_s <= 0.05
    assert tight.predicted_s <= 0.02
    assert loose.budget > tight.budget
    assert law.decide(view(8, 0.001)).budget == pytest.approx(0.1)


def test_slackfits_margin_leaves_slack_and_adapting_spends_it_on_short_queues():
    plain, careful = SlackFit(PLAN).decide(view(8)), SlackFit(PLAN, 0.3).decide(view(8))
    assert careful.predicted_s <= 0.7 * 0.05
    assert careful.predicted_s < plain.predicted_s
    assert SlackFit(PLAN, adapted=True).decide(view(1)).budget > SlackFit(PLAN).decide(view(1)).budget


def test_the_dimmer_falls_when_answers_are_slow_and_rises_slowly_when_they_are_fast():
    law = Dimmer(PLAN)
    for step in range(20):
        law.decide(view(30, 0.2, now=0.1 * step, start=100 * step))
    slow = law.theta
    assert slow < 0.45
    for step in range(20, 40):
        law.decide(view(1, 0.2, now=0.1 * step, start=100 * step))
    assert slow < law.theta < 1.0


def test_aimd_cuts_by_a_fifth_and_adds_a_tenth():
    law = Aimd(PLAN, period_s=0.1, setpoint_ratio=0.5)
    law.decide(view(8, now=0.05))
    law.decide(view(8, now=0.2, start=50))
    assert law.theta == pytest.approx(0.8)
    law.theta = 0.1
    law.decide(view(1, now=0.35, start=60))
    law.decide(view(1, now=0.5, start=70))
    assert law.theta == pytest.approx(0.2, abs=0.11)


def test_fixed_sheds_what_is_past_its_deadline_even_if_nothing_else_waits():
    decision = Fixed([PLAN]).decide(ReplicaView(1.0, view(3).queues))
    assert decision.batch == ()
    assert [shed.reason for shed in decision.sheds] == [ShedReason.DEADLINE] * 3
    assert Fixed([PLAN], 0.5).state("reference").budget == 0.5
