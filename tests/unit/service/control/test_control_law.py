"""Properties of the drain-feasible law: monotone, never below a floor, feasible stays feasible, sheds to feasible."""

import dataclasses
import math
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.control.backlog import plan_backlog
from service.control.drain import plan_head
from service.control.edf import EdfQueue
from service.control.lane import Lane, Machine
from service.control.policy import DrainFeasible
from service.control.profile import ServiceProfile
from service.control.shedding import shed_to_feasible
from service.control.types import HIGH, LOW, NORMAL, BatchDone, ModelPlan, QueuedItem, ReplicaView, ShedReason

PROFILE = ServiceProfile((0.1, 0.4, 1.0), (1, 8), [[0.002, 0.004, 0.010], [0.011, 0.027, 0.073]])
PLAN = ModelPlan("a", PROFILE, default_deadline_s=0.2, max_batch=8, min_budget=0.1)
OTHER = ModelPlan("b", ServiceProfile.affine(0.001, 0.001, 0.02, (0.2, 1.0), 4), 0.3, 4, 0.2)
QUICK = settings(max_examples=60, deadline=None)


def learnt(*plans):
    """A law that has seen nothing but exact predictions."""
    law = DrainFeasible(plans)
    for plan in plans:
        for _ in range(500):
            law.on_batch_done(BatchDone(plan.name, 1, 0.01, 0.01, 0.0))
    return law


def view_of(items, now=0.0, workers=1, busy=(), names=("a",)):
    queues = {name: EdfQueue([item for item in items if item.model == name]) for name in names}
    return ReplicaView(now, queues, busy, workers)


def queue_of(deadlines, floors=None, **kwargs):
    floors = floors or [0.1] * len(deadlines)
    return [
        QueuedItem("a", deadline, 0.0, i, floor=floor, **kwargs)
        for i, (deadline, floor) in enumerate(zip(deadlines, floors, strict=True))
    ]


DEADLINES = st.lists(st.floats(0.02, 1.0), min_size=1, max_size=40)


@QUICK
@given(DEADLINES, st.floats(0.0, 0.3))
def test_more_slack_never_lowers_the_budget(deadlines, more):
    """Unless it goes into a fuller head batch, which serves more: that was worth more than the budget (ADR 3)."""
    tight = learnt(PLAN).decide(view_of(queue_of(deadlines)))
    loose = learnt(PLAN).decide(view_of(queue_of([deadline + more for deadline in deadlines])))
    assert loose.budget >= tight.budget - 0.02 or len(loose.batch) > len(tight.batch)


@QUICK
@given(DEADLINES, st.floats(0.0, 1.0))
def test_one_more_behind_the_queue_never_raises_the_budget(deadlines, later):
    """A more urgent one may: a head batch of its own can leave the others, which then share batches anew, more time."""
    before = learnt(PLAN).decide(view_of(queue_of(deadlines)))
    after = learnt(PLAN).decide(view_of(queue_of([*deadlines, max(deadlines) + later])))
    assert after.budget <= before.budget + 1e-9 or before.at_floor


@QUICK
@given(DEADLINES, st.lists(st.sampled_from([0.1, 0.5, 1.0]), min_size=40, max_size=40), st.integers(1, 3))
def test_nothing_ever_runs_below_its_floor_or_above_its_ceiling(deadlines, floors, workers):
    items = [
        dataclasses.replace(item, ceiling=max(item.floor, 0.8), rows=1 + item.sequence % 2)
        for item in queue_of(deadlines, floors[: len(deadlines)])
    ]
    decision = learnt(PLAN).decide(view_of(items, workers=workers))
    assert 0.1 <= decision.budget <= 1.0
    for item in decision.batch:
        assert item.floor <= item.clip(decision.budget) <= item.ceiling
    assert not {item.sequence for item in decision.batch} & {shed.item.sequence for shed in decision.sheds}
    assert len(decision.batch) + len(decision.sheds) > 0


def play_exactly(law, items, workers, names, plans):
    """Run a queue to its end with exactly the predicted times; (finish, item, budget) of all, and all sheds."""
    queues = {name: EdfQueue([item for item in items if item.model == name]) for name in names}
    running, answered, sheds, now = [], [], [], 0.0
    while any(queues.values()) or running:
        while len(running) < workers and any(queues.values()):
            decision = law.decide(ReplicaView(now, queues, [end for end, _ in running], workers))
            for shed in decision.sheds:
                queues[shed.item.model].remove(shed.item)
                sheds.append(shed)
            if decision.batch:
                queues[decision.model].take(decision.batch)
                budgets = [item.clip(decision.budget) for item in decision.batch for _ in range(item.rows)]
                seconds = plans[decision.model].profile.seconds(sum(budgets) / len(budgets), len(budgets))
                running.append((now + seconds, decision))
        if running:
            running.sort(key=lambda entry: entry[0])
            now, decision = running.pop(0)
            answered += [(now, item, item.clip(decision.budget)) for item in decision.batch]
    return answered, sheds


@QUICK
@given(DEADLINES, st.integers(1, 3))
def test_a_feasible_queue_stays_feasible_with_exact_service_times(deadlines, workers):
    law, items = learnt(PLAN), sorted(queue_of(deadlines), key=lambda item: item.deadline_s)
    lane = Lane("a", items, min(8, len(items)), PROFILE, 1.0 + 1e-6, 0.1, 1.0, kinds=EdfQueue(items).kinds)
    feasible = max(plan_backlog([lane]).late(0, Machine(0.0, 0.0, workers, math.inf))) <= 0.0
    answered, sheds = play_exactly(law, items, workers, ["a"], {"a": PLAN})
    if feasible:
        assert not sheds
        assert all(finish <= item.deadline_s + 1e-6 for finish, item, _ in answered)
    assert len(answered) + len(sheds) == len(items)


@QUICK
@given(st.lists(st.floats(0.05, 1.5), min_size=1, max_size=20), st.lists(st.floats(0.05, 1.5), min_size=1, max_size=20))
def test_two_models_share_the_machine_and_a_feasible_joint_backlog_is_served_on_time(first, second):
    items = queue_of(first) + [QueuedItem("b", d, 0.0, 1000 + i, floor=0.2) for i, d in enumerate(second)]
    lanes = sorted(
        (
            Lane(
                p.name,
                sorted(q, key=lambda i: i.deadline_s),
                min(p.max_batch, len(q)),
                p.profile,
                1.001,
                p.min_budget,
                1.0,
            )
            for p in (PLAN, OTHER)
            if (q := [item for item in items if item.model == p.name])
        ),
        key=lambda lane: lane.items[0].deadline_s,
    )
    feasible = max(plan_backlog(lanes).late(0, Machine(0.0, 0.0, 1, math.inf))) <= 0.0
    answered, sheds = play_exactly(learnt(PLAN, OTHER), items, 1, ["a", "b"], {"a": PLAN, "b": OTHER})
    if feasible:
        assert not sheds
        assert all(finish <= item.deadline_s + 1e-3 for finish, item, _ in answered)


@QUICK
@given(
    st.lists(st.floats(0.0, 0.5), min_size=1, max_size=60),
    st.lists(st.sampled_from([0.1, 1.0]), min_size=60, max_size=60),
    st.lists(st.sampled_from([HIGH, NORMAL, LOW]), min_size=60, max_size=60),
)
def test_shedding_leaves_a_feasible_queue(deadlines, floors, priorities):
    items = [
        dataclasses.replace(item, priority=priorities[item.sequence])
        for item in queue_of(sorted(deadlines), floors[: len(deadlines)])
    ]
    machine = Machine(0.0, 0.0, 1, math.inf)
    lane = Lane("a", items, 8, PROFILE, 1.0, 0.1, 1.0)
    gone = {item.sequence for item in shed_to_feasible([lane], machine)}
    rest = [item for item in items if item.sequence not in gone]
    assert not rest or max(plan_backlog([lane._replace(items=rest)]).late(0, machine)) <= 1e-9


@QUICK
@given(
    DEADLINES,
    st.lists(st.sampled_from([0.1, 0.3, 1.0]), min_size=40, max_size=40),
    st.floats(0.1, 1.0),
    st.integers(1, 8),
    st.integers(1, 3),
)
def test_counting_kinds_forms_the_same_batches_as_looking_at_every_item(deadlines, floors, budget, head, workers):
    items = queue_of(sorted(deadlines), floors[: len(deadlines)], ceiling=1.0)
    looked = Lane("a", items, 8, PROFILE, 1.1, 0.1, 1.0, 0.01)
    counted = looked._replace(kinds=EdfQueue(items).kinds)
    machine = Machine(0.0, 0.005, workers, math.inf)
    late = plan_backlog([looked], head).late_at(budget, machine)
    assert plan_backlog([counted], head).late_at(budget, machine) == pytest.approx(late)


@QUICK
@given(
    DEADLINES,
    st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.6, 1.0]), st.sampled_from([0.5, 1.0])), min_size=40, max_size=40),
    st.floats(0.1, 1.0),
    st.integers(1, 3),
)
@example([0.0390625] * 5, [(0.1, 0.5)] * 2 + [(0.1, 1.0)] * 38, 0.3, 1)  # every chord's zero is a little late
def test_the_budget_that_is_found_is_feasible_and_nearly_the_largest(deadlines, bounds, near, workers):
    items = [
        dataclasses.replace(item, floor=floor, ceiling=max(floor, ceiling))
        for item, (floor, ceiling) in zip(queue_of(sorted(deadlines)), bounds, strict=False)
    ]
    lane = Lane("a", items, 8, PROFILE, 1.1, 0.1, 1.0, 0.0, EdfQueue(items).kinds)
    machine = Machine(0.0, 0.002, workers, math.inf)
    plan = plan_head([lane], machine, 1.0, near)
    if plan is None:
        assert max(plan_backlog([lane]).late(0, machine)) > 0.0
        return
    backlog = plan_backlog([lane], plan.rows)
    assert max(backlog.late_at(plan.budget, machine)) <= 1e-9
    if not lane.alike:  # exact
        assert plan.budget == 1.0 or max(backlog.late_at(plan.budget + 1e-6, machine)) > 0.0


def test_a_short_last_batch_is_not_taken_for_a_share_of_a_full_one():
    items = [
        QueuedItem("a", d, 0.0, i, floor=f) for i, (d, f) in enumerate([(0.01205, 0.1), (0.01205, 0.1), (0.5, 1.0)])
    ]
    machine, lane = Machine(0.0, 0.0, 1, math.inf), Lane("a", items, 8, PROFILE, 1.0, 0.1, 1.0)
    assert max(plan_backlog([lane]).late(0, machine)) > 0.0
    kept = [item for item in items if item not in shed_to_feasible([lane], machine)]
    assert max(plan_backlog([lane._replace(items=kept)]).late(0, machine)) <= 0.0


def test_the_least_important_class_is_shed_first():
    items = [QueuedItem("a", 0.05, 0.0, i, floor=0.1, priority=(HIGH, NORMAL, LOW)[i % 3]) for i in range(90)]
    decision = learnt(PLAN).decide(view_of(items))
    shed = [shed.item.priority for shed in decision.sheds]
    assert shed.count(LOW) == 30
    assert 18 <= shed.count(NORMAL) <= 24  # 36 to 42 are what the floor can serve
    assert shed.count(HIGH) == 0


@QUICK
@given(
    st.lists(st.floats(0.0, 0.5), min_size=1, max_size=60),
    st.lists(st.sampled_from([0.1, 1.0]), min_size=60, max_size=60),
    st.lists(st.sampled_from([HIGH, NORMAL, LOW]), min_size=60, max_size=60),
)
def test_nothing_is_shed_for_a_less_important_request_that_is_due_no_later(deadlines, floors, priorities):
    """Of equal cost, that is; an important request that is due earlier may be past saving."""
    items = [
        dataclasses.replace(item, priority=priorities[item.sequence])
        for item in queue_of(sorted(deadlines), floors[: len(deadlines)])
    ]
    shed = shed_to_feasible([Lane("a", items, 8, PROFILE, 1.0, 0.1, 1.0)], Machine(0.0, 0.0, 1, math.inf))
    kept = [item for item in items if item not in shed]
    for gone in shed:
        for other in kept:
            alike, later = other.floor == gone.floor, other.deadline_s > gone.deadline_s
            assert other.priority <= gone.priority or not alike or later


def test_hopeless_requests_do_not_take_quality_from_the_others():
    law = learnt(PLAN)
    for i in range(20):
        assert not law.admit(view_of([]), QueuedItem("a", 0.0005, 0.0, i, floor=0.1)).ok
    assert law.decide(view_of(queue_of([0.2]))).budget == 1.0


def test_while_load_is_refused_everything_runs_at_the_floor():
    law, items = learnt(PLAN), queue_of([0.1] * 100)
    assert not law.admit(view_of(items), QueuedItem("a", 0.1, 0.0, 99, floor=0.1)).ok
    assert law.decide(view_of(items[:2])).budget == 0.1
    assert law.decide(view_of(queue_of([1.0]), now=0.5)).budget > 0.1


def test_pinned_requests_keep_their_budget_or_are_refused():
    pinned = [QueuedItem("a", 0.1, 0.0, i, floor=1.0, ceiling=1.0) for i in range(8)]
    cheap = [QueuedItem("a", 0.1, 0.0, 100 + i, floor=0.1) for i in range(40)]
    answered, sheds = play_exactly(learnt(PLAN), [*pinned, *cheap], 1, ["a"], {"a": PLAN})
    assert {shed.reason for shed in sheds if shed.item.floor == 1.0} == {ShedReason.FLOOR}
    assert all(budget == 1.0 for _, item, budget in answered if item.floor == 1.0)
    assert sum(shed.item.floor == 1.0 for shed in sheds) > sum(shed.item.floor == 0.1 for shed in sheds)


def test_a_best_effort_request_is_deferred_never_shed():
    items = [QueuedItem("a", 0.01, 0.0, i, floor=0.1, best_effort=True) for i in range(50)]
    decision = learnt(PLAN).decide(view_of(items))
    assert not decision.sheds
    assert decision.deferred
    assert all(item.deadline_s == 0.2 for item in decision.deferred)


def test_items_of_different_groups_never_share_a_batch():
    items = [QueuedItem("a", 0.2, 0.0, i, floor=0.1, group=i % 3) for i in range(12)]
    decision = learnt(PLAN).decide(view_of(items))
    assert {item.group for item in decision.batch} == {0}
    assert len(decision.batch) <= 4


def test_the_budget_rises_slowly_and_falls_at_once():
    law = learnt(PLAN)
    assert law.decide(view_of(queue_of([0.12] * 60))).budget < 0.2
    rises = [law.decide(view_of(queue_of([0.2]), now=0.001 * i)).budget for i in range(7)]
    assert all(after - before <= 0.15 + 1e-9 for before, after in pairwise(rises))
    assert rises[-1] == 1.0


def test_a_slow_batch_of_one_model_leaves_room_for_the_short_deadlines_of_another():
    slow = ModelPlan("b", ServiceProfile.affine(0.0, 0.01, 0.3, (0.1, 1.0), 1), 2.0, 1, 0.1)
    law = learnt(PLAN, slow)
    alone = law.decide(view_of([QueuedItem("b", 2.0, 0.0, 1, floor=0.1)], names=("a", "b")))
    assert alone.budget == 1.0
    law.admit(view_of([], now=0.0, names=("a", "b")), QueuedItem("a", 0.2, 0.0, 2, floor=0.1))
    beside = law.decide(view_of([QueuedItem("b", 2.0, 0.0, 1, floor=0.1)], now=0.01, names=("a", "b")))
    assert beside.predicted_s <= 0.11


def test_the_operators_limits_change_at_once_and_what_was_learnt_stays():
    law = learnt(PLAN)
    law.set_model(dataclasses.replace(PLAN, max_budget=0.3))
    assert law.decide(view_of(queue_of([0.2]))).budget <= 0.3
    assert law.state("a").service_ratio < 1.01
    law.remove_model("a")
    law.on_batch_done(BatchDone("a", 1, 0.01, 0.01, 0.0))


def test_an_urgent_arrival_makes_room_by_evicting_a_lower_class_only():
    law = learnt(PLAN)
    queue = EdfQueue()
    view = ReplicaView(0.0, {"a": queue})
    for i in range(200):
        item = QueuedItem("a", 0.1, 0.0, i, floor=0.1, priority=LOW)
        if law.admit(view, item).ok:
            queue.add(item)
    full = len(queue)
    urgent = law.admit(view, QueuedItem("a", 0.1, 0.0, 999, floor=0.1, priority=HIGH))
    assert urgent.ok
    assert 1 <= len(urgent.evicted) <= 8
    assert {item.priority for item in urgent.evicted} == {LOW}
    equal = law.admit(view, QueuedItem("a", 0.1, 0.0, 1000, floor=0.1, priority=LOW))
    assert not equal.ok
    assert full == len(queue)


def test_an_urgent_request_is_admitted_in_front_of_what_can_wait():
    """Together with the others, one of them pinned, it would be late; it need not share their batch."""
    law = learnt(PLAN)
    patient = [QueuedItem("a", 0.2, 0.0, i, floor=0.1 if i else 1.0) for i in range(7)]
    admission = law.admit(view_of(patient), QueuedItem("a", 0.012, 0.0, 9, floor=0.1))
    assert admission.ok
    assert not admission.evicted
    urgent = QueuedItem("a", 0.012, 0.0, 9, floor=0.1)
    answered, sheds = play_exactly(learnt(PLAN), [*patient, urgent], 1, ["a"], {"a": PLAN})
    assert not sheds
    assert all(finish <= item.deadline_s for finish, item, _ in answered)


def test_refusals_name_what_stands_in_the_way():
    law = learnt(PLAN)
    empty = view_of([])
    too_short = law.admit(empty, QueuedItem("a", 0.001, 0.0, 1, floor=0.1))
    pinned = law.admit(empty, QueuedItem("a", 0.005, 0.0, 2, floor=1.0))
    not_a_number = law.admit(empty, QueuedItem("a", math.nan, 0.0, 3))
    assert (too_short.ok, too_short.reason) == (False, ShedReason.ADMISSION)
    assert (pinned.ok, pinned.reason) == (False, ShedReason.FLOOR)
    assert (not_a_number.ok, not_a_number.reason) == (False, ShedReason.FLOOR)


def test_a_full_queue_refuses():
    law = learnt(PLAN)
    law.settings = dataclasses.replace(law.settings, max_queue=3)
    refused = law.admit(view_of(queue_of([1.0] * 3)), QueuedItem("a", 1.0, 0.0, 9, floor=0.1))
    assert refused.reason is ShedReason.QUEUE_FULL
