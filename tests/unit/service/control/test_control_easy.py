"""What the law tells at once is what it would have found by its search."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import service.control.policy as law_module
from service.control.edf import EdfQueue
from service.control.policy import DrainFeasible
from service.control.profile import ServiceProfile
from service.control.types import HIGH, LOW, NORMAL, BatchDone, Decision, Limit, ModelPlan, QueuedItem, ReplicaView

PROFILE = ServiceProfile((0.1, 0.4, 1.0), (1, 8), [[0.002, 0.004, 0.010], [0.011, 0.027, 0.073]])
PLANS = [
    ModelPlan("a", PROFILE, default_deadline_s=0.2, max_batch=8, min_budget=0.1),
    ModelPlan("b", ServiceProfile.affine(0.001, 0.001, 0.02, (0.2, 1.0), 4), 0.3, 4, 0.2),
]


class Searching(DrainFeasible):
    """The law without its short cuts."""

    def _at_once(self, *_):
        return None

    def _easily(self, *_):
        return False


ITEMS = st.builds(
    dict,
    model=st.sampled_from(["a", "a", "a", "b"]),
    after_s=st.sampled_from([0.0, 0.0, 0.002, 0.02, 0.2]),
    timeout_s=st.sampled_from([0.004, 0.03, 0.1, 0.2, 0.5]),
    rows=st.sampled_from([1, 1, 1, 1, 3]),
    floor=st.sampled_from([0.0, 0.0, 0.0, 0.6]),
    pinned=st.sampled_from([False, False, False, True]),
    priority=st.sampled_from([HIGH, NORMAL, LOW]),
    best_effort=st.sampled_from([False, False, False, True]),
    dispatch=st.sampled_from([True, True, False]),
    slow=st.floats(0.7, 2.0),
)


def build(drawn, sequence, now):
    low = 0.1 if drawn["model"] == "a" else 0.2
    floor = 1.0 if drawn["pinned"] else max(low, drawn["floor"])
    return QueuedItem(
        drawn["model"],
        now + drawn["timeout_s"],
        now,
        sequence,
        rows=drawn["rows"],
        floor=floor,
        priority=drawn["priority"],
        best_effort=drawn["best_effort"],
    )


def rounded(decision):
    """Times and budgets without their last digits, in which a sum and a product may differ."""
    if decision is None:
        return None
    budget = round(decision.budget, 9)
    limit = Limit.NONE if budget == 1.0 and not decision.at_floor else decision.limit
    predicted_s, expected_s = round(decision.predicted_s, 9), round(decision.expected_s, 9)
    return dataclasses.replace(decision, budget=budget, predicted_s=predicted_s, expected_s=expected_s, limit=limit)


@settings(max_examples=150, deadline=None)
@given(st.lists(ITEMS, min_size=1, max_size=60), st.integers(1, 2))
def test_short_cuts_change_nothing_that_is_decided(drawn, workers):
    quick, searching = DrainFeasible(PLANS), Searching(PLANS)
    queues, now, busy = {"a": EdfQueue(), "b": EdfQueue()}, 0.0, []
    for sequence, one in enumerate(drawn):
        now += one["after_s"]
        busy = [end for end in busy if end > now]
        view, item = ReplicaView(now, queues, busy, workers), build(one, sequence, now)
        admission = quick.admit(view, item)
        assert admission == searching.admit(view, item)
        for victim in admission.evicted:
            queues[victim.model].remove(victim)
        if admission.ok:
            queues[item.model].add(item)
        if one["dispatch"] and len(busy) < workers:
            decision = quick.decide(view)
            assert rounded(decision) == rounded(searching.decide(view))
            if decision is not None:
                apply(decision, queues)
                if decision.batch:
                    busy.append(now + one["slow"] * decision.expected_s)
                    rows = sum(item.rows for item in decision.batch)
                    actual_s = one["slow"] * decision.predicted_s
                    for law in (quick, searching):
                        law.on_batch_done(BatchDone(decision.model, rows, decision.predicted_s, actual_s, now))
        assert quick.budget == pytest.approx(searching.budget, abs=1e-9)


def apply(decision, queues):
    for shed in decision.sheds:
        queues[shed.item.model].remove(shed.item)
    for item in decision.deferred:
        old = next(o for o in queues[item.model] if o.sequence == item.sequence)
        queues[item.model].remove(old)
        queues[item.model].add(item)
    if decision.batch:
        queues[decision.model].take(decision.batch)


def test_a_replica_at_light_load_never_searches(monkeypatch):
    law, queue = DrainFeasible(PLANS[:1]), EdfQueue()

    def searched(*_):
        raise AssertionError("a search for one request")

    monkeypatch.setattr(law_module, "plan_head", searched)
    monkeypatch.setattr(law_module, "plan_backlog", searched)
    view = ReplicaView(0.0, {"a": queue})
    for i in range(4):
        item = QueuedItem("a", 0.2, 0.0, i, floor=0.1)
        assert law.admit(view, item).ok
        queue.add(item)
    decision = law.decide(view)
    assert isinstance(decision, Decision)
    assert (decision.budget, len(decision.batch)) == (1.0, 4)
