"""The slow knob: replicas needed at the target budget, its delays, its fallback; contexts as Ray Serve builds them."""

from dataclasses import dataclass, field
from unittest.mock import patch

import pytest
from ray.serve._private.autoscaling_state import _resolve_policy_callable
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext
from ray.serve.schema import ServeDeploySchema

from service.control.autoscale import (
    BUDGET,
    DEMAND,
    SHED_RATE,
    WORKERS,
    Demand,
    ScaleSettings,
    TargetBudgetPolicy,
    replicas_needed,
)
from service.launcher.serve_file import ServeFile, default_path

target_budget = TargetBudgetPolicy()


def context(current=2, target=2, now=0.0, state=None, metrics=None, requests=0.0, low=1, high=10, config=None):
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
        config=config or AutoscalingConfig(target_ongoing_requests=2.0),
    )


def reported(demand, budget=1.0, shed=0.0, replicas=2, workers=1.0):
    names = [f"r{i}" for i in range(replicas)]
    return {
        DEMAND: dict.fromkeys(names, demand / replicas),
        WORKERS: dict.fromkeys(names, workers),
        BUDGET: dict.fromkeys(names, budget),
        SHED_RATE: dict.fromkeys(names, shed / replicas),
    }


def shipped():
    """The deployment's autoscaling config, read as Ray Serve reads the file."""
    schema = ServeDeploySchema.model_validate(dict(ServeFile.read(default_path()).content))
    deployment = schema.applications[0].deployments[0]
    return AutoscalingConfig(**deployment.model_dump(exclude_unset=True)["autoscaling_config"])


@dataclass
class Loop:
    """Ray's control loop around a policy: a tick every 0.1 s, Ray's own delays, replicas that start at once."""

    config: AutoscalingConfig
    replicas: int = 2
    now: float = 1.0
    state: dict = field(default_factory=dict)

    def __post_init__(self):
        self.policy = _apply_autoscaling_config(_resolve_policy_callable(self.config.policy))

    def tick(self, seconds, metrics):
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            ctx = context(self.replicas, self.replicas, self.now, self.state, metrics, config=self.config)
            with patch("ray.serve.autoscaling_policy.time.time", lambda: self.now):
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


def test_the_shipped_file_scales_by_the_target_budget():
    config = shipped()
    assert isinstance(_resolve_policy_callable(config.policy), TargetBudgetPolicy)
    assert (config.upscale_delay_s, config.downscale_delay_s) == (10.0, 300.0)
    assert config.max_replicas > config.min_replicas


def test_the_command_line_switches_back_to_rays_own_policy():
    file = ServeFile.read(default_path()).patched(scaling="requests")
    schema = ServeDeploySchema.model_validate(dict(file.content))
    options = schema.applications[0].deployments[0].model_dump(exclude_unset=True)["autoscaling_config"]
    assert AutoscalingConfig(**options).policy.is_default_policy_function()
    assert ServeFile.read(default_path()).patched(scaling="demand").content == ServeFile.read(default_path()).content


def test_a_wish_for_more_must_hold_for_its_delay():
    loop = Loop(shipped())
    assert loop.tick(9.0, reported(2.4, budget=0.4)) == 2
    assert loop.tick(2.0, reported(2.4, budget=0.4)) == 3


def test_a_short_peak_changes_nothing():
    loop = Loop(shipped())
    loop.tick(6.0, reported(2.4, budget=0.4))
    loop.tick(1.0, reported(1.0, budget=0.9))
    assert loop.tick(6.0, reported(2.4, budget=0.4)) == 2


def test_scaling_down_waits_much_longer_and_goes_one_by_one():
    loop = Loop(shipped(), replicas=4)
    idle = reported(0.2, budget=1.0, replicas=4)
    assert loop.tick(299.0, idle) == 4
    assert loop.tick(2.0, idle) == 3
    assert loop.tick(301.0, idle) == 2


def test_it_holds_while_replicas_start():
    replicas, _ = target_budget(context(2, 5, metrics=reported(0.1)))
    assert replicas == 5


def test_the_limits_of_the_deployment_hold():
    assert target_budget(context(metrics=reported(100.0, budget=0.1)))[0] == 10


def test_without_reports_it_counts_requests_as_ray_does():
    assert target_budget(context(requests=9.0))[0] == 5
    assert target_budget(context(requests=0.0))[0] == 1
    assert target_budget(context(metrics={DEMAND: {"r": float("nan")}}, requests=4.0))[0] == 2
