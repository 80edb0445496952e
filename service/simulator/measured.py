"""The plant of a packaged model: its service times as measured here and now, its own calibration table."""

from __future__ import annotations

from models.registry import find_package, load_package, shipped_repository
from service.control.types import ModelPlan
from service.errors import InvalidRequest
from service.scheduling.profiler import profile_model
from service.simulator.plant import Plant, table_plant


def measured_plant(name: str, workers: int = 1) -> Plant:
    """Load, warm up and time a packaged model (cached).

    Raises InvalidRequest for a model without budgets, and for times too noisy for the service to adapt by them.
    """
    model = load_package(find_package(shipped_repository(), name))
    table, spec = model.table, model.spec
    if table is None:
        raise InvalidRequest(f"model {name} has one budget only: there is nothing to control")
    model.warm_up()
    fit = profile_model(model, workers, cache=None).fit
    if not fit.adaptive:
        raise InvalidRequest(f"the measured times of {name} cannot steer a budget: {'; '.join(fit.problems)}")
    profile = fit.profile
    plan = ModelPlan(
        name, profile, spec.default_deadline_s, max(1, spec.max_batch_size), table.floor, table.budgets[-1]
    )
    return table_plant(plan, table)
