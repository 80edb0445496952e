"""What the page asks for, free of any transport."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from models.interface import Arrays, ServableModel, ShowsUnits
from service.console.inputs import read_budget, read_inputs
from service.console.live import LiveFeed
from service.console.samples import samples_of
from service.console.views import Json, answer_view, layer_views, model_view
from service.errors import InvalidRequest, NotFound
from service.types import InferResponse


class ConsoleSource(Protocol):
    """What the console needs of the service; the dataplane offers it."""

    @property
    def server_name(self) -> str: ...

    @property
    def server_version(self) -> str: ...

    @property
    def ready(self) -> bool: ...

    def servables(self) -> Sequence[ServableModel]:
        """The loaded models, one version each."""

    async def infer(self, model: ServableModel, inputs: Arrays, budget: float | None, tenant: str) -> InferResponse:
        """One row. budget: pinned, None = whatever the load allows. Raises ServiceError."""


class Console:
    """The JSON behind the page. Requests of the console take the way of all others: admission, queue, batch."""

    def __init__(self, source: ConsoleSource, feed: LiveFeed) -> None:
        self._source, self._feed = source, feed

    def overview(self) -> Json:
        source = self._source
        models = sorted(source.servables(), key=lambda model: model.spec.name)
        return {
            "name": source.server_name,
            "version": source.server_version,
            "models": [model_view(model) for model in models],
        }

    async def live(self) -> Json:
        time_s, models = await self._feed.totals()
        return {"time_s": time_s, "ready": self._source.ready, "models": models}

    def samples(self, model: str) -> Json:
        """Raises NotFound."""
        return {"samples": samples_of(self._find(model).spec)}

    async def infer(self, body: Any, tenant: str = "") -> Json:
        """body: {"model", "budget": number or null, "pixels" or "text"}. Raises InvalidRequest, NotFound, Overloaded.

        The answer is the service's. The units shown are those of the same input at the budget that served it, looked
        at once more afterwards: rows are independent, so they are the ones that ran.
        """
        if not isinstance(body, Mapping) or not isinstance(body.get("model"), str):
            raise InvalidRequest('expected a JSON object with "model"')
        model = self._find(body["model"])
        inputs, budget = read_inputs(model.spec, body), read_budget(body.get("budget"))
        response = await self._source.infer(model, inputs, budget, tenant)
        served = float(response.parameters.get("quality_budget", 1.0))
        layers = await asyncio.to_thread(_layers, model, inputs, served)
        return answer_view(model.spec, response) | {"layers": layers}

    def _find(self, name: str) -> ServableModel:
        for model in self._source.servables():
            if model.spec.name == name:
                return model
        raise NotFound("no such model is loaded")


def _layers(model: ServableModel, inputs: Arrays, budget: float) -> list[Json]:
    report = model.infer(inputs, np.array([budget])).reports[0]
    fired = model.fired_units(inputs, budget) if isinstance(model, ShowsUnits) else {}
    return layer_views(report, fired)
