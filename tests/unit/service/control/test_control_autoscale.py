"""The slow knob: replicas needed at the target budget, its delays, its fallback; contexts as Ray Serve builds them."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from ray.serve.config import AutoscalingContext

from service.control.autoscale import (
    BUDGET,
    DEMAND,
    SHED_RATE,
    WORKERS,
    Demand,
    ScaleSettings,
    TargetBudgetPolicy,
    replicas_needed,
    target_budget_policy,
)
from service.control.edf import EdfQueue
from service.control.policy import DrainFeasible
from service.control.types import QueuedItem, ReplicaView
from service.simulator.plant import reference_plant


def context(current=2, target=2, now=0.0, state=None, metrics=None, requests=0.0, low=1, high=10):
    return AutoscalingContext(
        deployment_id=None,
        deployment_name="swan",
        app_name="default",
        current_num_replicas=current,
        target_num_replicas=target,
        running_replicas=[],
        total_num_requests=requests,
        total_queued_requests=0.0,
        aggregated_metrics=metrics,
        raw_metrics=None,
        capacity_adjusted_min_replicas=low,
        capacity_adjusted_max_replicas=high,
        policy_state=state or {},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=now,
        config=SimpleNamespace(target_ongoing_requests=2.0),
    )


def reported(demand, budget=1.0, shed=0.0, replicas=2, workers=1.0):
    names = [f"r{i}" for i in range(replicas)]
    return {
        DEMAND: dict.fromkeys(names, demand / replicas),
        WORKERS: dict.fromkeys(names, workers),
        BUDGET: dict.fromkeys(names, budget),
        SHED_RATE: dict.fromkeys(names, shed / replicas),
    }


@dataclass
class Loop:
    """Ray's control loop: a tick every 0.1 s, replicas start at once."""

    policy: TargetBudgetPolicy
    replicas: int = 2
    now: float = 0.0
    state: dict = field(default_factory=dict)

    def tick(self, seconds, metrics):
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            ctx = context(self.replicas, self.replicas, self.now, self.state, metrics)
            self.replicas, self.state = self.policy(ctx)
        return self.replicas


@pytest.mark.parametrize(
    ("needed", "budget", "shed", "current", "wanted"),
    [
        (1.6, 0.7, 0.0, 2, 2),
        (1.7, 0.7, 0.0, 2, 3),
        (5.0, 0.2, 0.0, 2, 7),
        (1.6, 0.1, 3.0, 2, 3),  # sheds although the sum says enough: one more
        (0.5, 0.9, 0.0, 2, 2),  # the budget is still lowered: keep
        (0.5, 1.0, 0.0, 2, 1),
        (0.69, 1.0, 0.0, 2, 1),
        (0.75, 1.0, 0.0, 2, 2),
        (0.0, 1.0, 0.0, 5, 4),  # one fewer at a time
        (0.0, 1.0, 0.0, 1, 1),
    ],
)
def test_replicas_needed(needed, budget, shed, current, wanted):
    assert replicas_needed(Demand(needed, 1.0, budget, shed), current, ScaleSettings()) == wanted


def test_a_wish_for_more_must_hold_for_its_delay():
    loop = Loop(TargetBudgetPolicy())
    assert loop.tick(9.0, reported(4.0, budget=0.4)) == 2
    assert loop.tick(2.0, reported(4.0, budget=0.4)) == 5


def test_a_short_peak_changes_nothing():
    loop = Loop(TargetBudgetPolicy())
    loop.tick(6.0, reported(4.0, budget=0.4))
    loop.tick(1.0, reported(1.0, budget=0.9))
    assert loop.tick(6.0, reported(4.0, budget=0.4)) == 2


def test_scaling_down_waits_much_longer_and_goes_one_by_one():
    loop = Loop(TargetBudgetPolicy(down_delay_s=20.0), replicas=4)
    idle = reported(0.2, budget=1.0, replicas=4)
    assert loop.tick(19.0, idle) == 4
    assert loop.tick(2.0, idle) == 3
    assert loop.tick(21.0, idle) == 2


def test_it_holds_while_replicas_start():
    replicas, _ = target_budget_policy(context(2, 5, metrics=reported(0.1)))
    assert replicas == 5


def test_the_limits_of_the_deployment_hold():
    loop = Loop(TargetBudgetPolicy(up_delay_s=0.0))
    assert loop.tick(0.5, reported(100.0, budget=0.1)) == 10


def test_without_reports_it_counts_requests_as_ray_does():
    assert target_budget_policy(context(requests=9.0))[0] == 5
    assert target_budget_policy(context(requests=0.0))[0] == 1
    assert target_budget_policy(context(metrics={DEMAND: {"r": float("nan")}}, requests=4.0))[0] == 2


def test_adaptation_hides_load_from_request_counts_but_not_from_the_demand():
    law = DrainFeasible([reference_plant().plan])
    for i in range(400):  # twice the full-budget capacity
        item = QueuedItem("reference", 0.005 * i + 0.05, 0.005 * i, i, floor=0.1)
        law.admit(ReplicaView(0.005 * i, {"reference": EdfQueue()}), item)
    stats = law.autoscaling_stats(2.0)
    assert stats[DEMAND] > 1.5
    assert replicas_needed(Demand(stats[DEMAND], 1.0, 0.5, 0.0), 1, ScaleSettings()) >= 2
    assert law.autoscaling_stats(60.0)[DEMAND] < 0.01
