"""The seam that the scheduler builds on: queue, view, decision."""

from service.control.edf import EdfQueue
from service.control.fixed import Fixed
from service.control.policy import DrainFeasible, LawSettings
from service.control.profile import ServiceProfile
from service.control.types import BatchDone, Limit, ModelPlan, QueuedItem, ReplicaView, ShedReason

PROFILE = ServiceProfile.affine(0.0, 0.001, 0.009, (0.1, 1.0), 8)
PLAN = ModelPlan("m", PROFILE, default_deadline_s=0.1, max_batch=8, min_budget=0.1)


def items(count: int, deadline_s: float = 0.1, **kwargs: object) -> list[QueuedItem]:
    return [QueuedItem("m", deadline_s, 0.0, i, **kwargs) for i in range(count)]  # type: ignore[arg-type]


def law() -> DrainFeasible:
    policy = DrainFeasible([PLAN])
    for _ in range(400):
        policy.on_batch_done(BatchDone("m", 1, 0.01, 0.01, 0.0))
    return policy


def test_one_request_runs_at_full_budget():
    decision = law().decide(ReplicaView(0.0, {"m": EdfQueue(items(1))}))
    assert decision is not None
    assert decision.budget == 1.0
    assert decision.limit is Limit.NONE
    assert len(decision.batch) == 1
    assert decision.predicted_s == PROFILE.seconds(1.0, 1)


def test_a_backlog_lowers_the_budget_so_that_all_of_it_is_on_time():
    decision = law().decide(ReplicaView(0.0, {"m": EdfQueue(items(24))}))
    assert decision is not None
    assert len(decision.batch) == 8
    assert decision.limit is Limit.LOAD
    assert not decision.sheds
    assert 3 * PROFILE.seconds(decision.budget, 8) <= 0.1 * (1.0 - LawSettings().guard_ratio) + 1e-9
    assert 3 * PROFILE.seconds(decision.budget, 8) >= 0.07


def test_what_cannot_be_on_time_is_shed_and_the_rest_runs_at_the_floor():
    decision = law().decide(ReplicaView(0.0, {"m": EdfQueue(items(100))}))
    assert decision is not None
    assert decision.at_floor
    assert decision.budget == 0.1
    assert {shed.reason for shed in decision.sheds} == {ShedReason.DEADLINE}
    capacity = 0.1 / PROFILE.seconds(0.1, 1)
    assert capacity - 9 <= 100 - len(decision.sheds) <= capacity


def test_an_arrival_that_cannot_be_on_time_is_refused_with_a_time_to_come_back():
    policy = law()
    queue = EdfQueue()
    view = ReplicaView(0.0, {"m": queue})
    refused = []
    for item in items(200):
        admission = policy.admit(view, item)
        if admission.ok:
            queue.add(item)
        else:
            refused.append(admission.retry_after_s)
    assert 30 <= len(queue) <= 52
    assert refused == sorted(refused)
    assert refused[-1] > 0.1


def test_fixed_ignores_load_and_answers_expired_requests():
    policy = Fixed([PLAN], budget=0.5)
    queue = EdfQueue([*items(2, deadline_s=0.5), QueuedItem("m", 1.5, 0.0, 7)])
    decision = policy.decide(ReplicaView(1.0, {"m": queue}))
    assert decision is not None
    assert [shed.item.sequence for shed in decision.sheds] == [0, 1]
    assert [item.sequence for item in decision.batch] == [7]
    assert decision.budget == 0.5
    assert policy.decide(ReplicaView(1.0, {"m": EdfQueue()})) is None
