"""What a replica tells the autoscaler: the load in workers at the target budget, since adaptation hides it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from service.control.autoscale import BUDGET, DEMAND, SHED_RATE, TARGET_BUDGET, WORKERS
from service.control.types import Policy
from service.scheduling.hosted import HostedModel


def workers_needed(
    policy: Policy,
    models: Mapping[str, HostedModel],
    target_budget: float = TARGET_BUDGET,
    now_s: float | None = None,
) -> float:
    """Workers that all arrivals, refused ones too, would keep busy at the target budget in full batches."""
    needed = 0.0
    for hosted in models.values():
        state = policy.state(hosted.key, now_s)
        batch = max(1, hosted.model.spec.max_batch_size)
        seconds = hosted.profile.seconds(hosted.served(target_budget), batch) * state.service_ratio
        needed += state.arrival_rate * seconds / batch
    return needed


class DemandReport:
    """Call it every few seconds. The keys are what `service.control.autoscale` reads."""

    def __init__(
        self, policy: Policy, models: Mapping[str, HostedModel], num_workers: int, clock: Callable[[], float]
    ) -> None:
        self._policy = policy
        self._models = models
        self._num_workers = num_workers
        self._clock = clock
        self._at_s = clock()
        self._shed = 0

    def __call__(self, target_budget: float = TARGET_BUDGET) -> dict[str, float]:
        """mean_budget is that of the models in use; shed_per_s counts since the last call, quotas left out."""
        now = self._clock()
        shed = sum(hosted.metrics.num_shed_by_load for hosted in self._models.values())
        rate = max(0, shed - self._shed) / max(now - self._at_s, 1e-3)
        self._at_s, self._shed = now, shed
        used = [hosted for hosted in self._models.values() if self._policy.state(hosted.key, now).arrival_rate > 0.0]
        budgets = [hosted.decided_budget / hosted.highest for hosted in used]
        return {
            DEMAND: workers_needed(self._policy, self._models, target_budget, now),
            WORKERS: float(self._num_workers),
            BUDGET: sum(budgets) / len(budgets) if budgets else 1.0,
            SHED_RATE: rate,
            "pending_requests": float(sum(hosted.num_pending for hosted in self._models.values())),
        }
