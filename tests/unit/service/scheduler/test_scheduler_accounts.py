"""Who pays for compute, and what the autoscaler is told."""

from __future__ import annotations

import numpy as np
import pytest

from service.control.fixed import Fixed
from service.control.policy import DrainFeasible
from service.errors import Overloaded
from service.types import Contract
from tests.support.gated_numpy import GatedNumpy
from tests.support.manual import Bench, settle


class Purse:
    """Every tenant may spend so many MACs, once; keeps the books that a quota must keep."""

    def __init__(self, macs: float) -> None:
        self.allowance = macs
        self.spent: dict[str, float] = {}

    def admit(self, tenant: str, expected_macs: float, now_s: float) -> float:
        if self.spent.get(tenant, 0.0) + expected_macs > self.allowance:
            return 7.0
        self.spent[tenant] = self.spent.get(tenant, 0.0) + expected_macs
        return 0.0

    def settle(self, tenant: str, expected_macs: float, actual_macs: float, now_s: float) -> None:
        self.spent[tenant] += actual_macs - expected_macs


def row(rows: int = 1, value: float = 1.0) -> dict[str, np.ndarray]:
    return {"x": np.full((rows, 8), value)}


def tenant(name: str, timeout_s: float | None = None) -> Contract:
    return Contract(tenant=name, timeout_s=timeout_s)


def test_a_tenant_pays_exactly_for_the_macs_that_ran_whatever_happened_to_its_requests() -> None:
    purse = Purse(1e6)
    it = Bench(Fixed(budget=0.5), [GatedNumpy(max_batch=2, deadline_s=5.0)], quota=purse)

    async def scenario() -> None:
        blocker = it.submit(row(2), tenant("b"))
        await settle()
        answered = [it.submit(row(), tenant("a")), it.submit(row(2), tenant("a"))]
        cancelled, expired = it.submit(row(), tenant("a")), it.submit(row(), tenant("a", timeout_s=0.5))
        failed = it.submit(row(value=-1e7), tenant("a"))
        other = it.submit(row(), tenant("b"))
        await settle()
        cancelled.cancel()
        await it.advance(1.0)
        await it.finish_all(0.01)
        assert expired.exception() is not None
        assert failed.exception() is not None
        assert purse.spent["a"] == sum(task.result().macs for task in answered)
        assert purse.spent["b"] == blocker.result().macs + other.result().macs

    it.run(scenario())


def test_a_tenant_without_compute_left_is_refused_and_the_others_are_not() -> None:
    it = Bench(Fixed(), [GatedNumpy()], quota=Purse(500.0))

    async def scenario() -> None:
        greedy = [it.submit(row(), tenant("greedy")) for _ in range(5)]
        modest = it.submit(row(), tenant("modest"))
        await it.finish_all(0.01)
        assert modest.exception() is None
        refused = [task.exception() for task in greedy if task.exception() is not None]
        assert len(refused) == 3  # 192 MACs each
        for error in refused:
            assert isinstance(error, Overloaded)
            assert (error.reason, error.retry_after_s) == ("quota", 7.0)
        assert it.sample("shed_total", reason="quota") == 3
        assert it.scheduler.demand()["shed_per_s"] == 0.0

    it.run(scenario())


def test_a_refusal_by_the_law_costs_the_tenant_nothing() -> None:
    purse = Purse(1e6)
    it = Bench(DrainFeasible(), [GatedNumpy(deadline_s=0.001)], quota=purse)

    async def scenario() -> None:
        task = it.submit(row(), tenant("a"))
        await settle()
        assert isinstance(task.exception(), Overloaded)
        assert purse.spent["a"] == 0.0

    it.run(scenario())


def test_the_autoscaler_sees_the_load_that_adaptation_hides() -> None:
    """1000 rows a second at 10.4 ms each (full batches, budget 0.9) keep about 10 workers busy, at any budget."""
    it = Bench(DrainFeasible(), [GatedNumpy(deadline_s=0.3)], max_queue=1000)

    async def scenario() -> None:
        assert it.scheduler.demand()["demand_workers"] == 0.0
        for _ in range(300):
            it.submit(row())
            await it.advance(0.001)
            if it.workers.jobs and it.clock.now_s % 0.03 < 0.001:
                await it.finish()
        demand = it.scheduler.demand()
        per_row = (0.002 + 8 * (0.001 + 0.009 * 0.9)) / 8
        ratio = it.sample("controller_service_ratio")
        rate = it.sample("controller_arrival_rate_per_second")
        assert rate == pytest.approx(1000.0 * (1.0 - np.exp(-1.5)), rel=0.1)  # 0.3 s seen through a window of 0.2 s
        assert demand["demand_workers"] == pytest.approx(rate * per_row * ratio)
        assert demand["workers"] == 1.0
        assert demand["mean_budget"] < 1.0
        assert demand["shed_per_s"] > 0.0
        assert it.sample("desired_replicas") == np.ceil(demand["demand_workers"] / 0.8)
        await it.finish_all()

    it.run(scenario())
