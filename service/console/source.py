"""The console on the dataplane: its requests are ordinary requests of an ordinary client."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from models.interface import Arrays, ServableModel
from service.errors import ServiceError
from service.inference.dataplane import Dataplane
from service.inference.repository import ModelRepository
from service.types import Contract, InferRequest, InferResponse, Quality


class DataplaneSource:
    """ConsoleSource of a replica."""

    def __init__(self, dataplane: Dataplane, repository: ModelRepository) -> None:
        self._dataplane, self._repository = dataplane, repository

    @property
    def server_name(self) -> str:
        return self._dataplane.identity.name

    @property
    def server_version(self) -> str:
        return self._dataplane.identity.version

    @property
    def ready(self) -> bool:
        return self._dataplane.ready()

    def servables(self) -> Sequence[ServableModel]:
        """The latest loaded version of each model."""
        names = {entry.name: None for entry in self._dataplane.index(only_ready=True)}
        found = []
        for name in names:
            try:
                found.append(self._repository.find(name))
            except ServiceError:
                continue  # unloaded between the two looks
        return found

    async def infer(self, model: ServableModel, inputs: Arrays, budget: float | None, tenant: str) -> InferResponse:
        spec, request_id = model.spec, f"console-{uuid.uuid4().hex[:12]}"
        quality = Quality() if budget is None else Quality(budget, budget)
        request = InferRequest(
            model=spec.name,
            version=spec.version,
            id=request_id,
            inputs=inputs,
            datatypes={item.name: item.datatype for item in spec.inputs},
            outputs=(),
            parameters={},
            contract=Contract(quality=quality, tenant=tenant),
            arrival_s=time.monotonic(),
            request_id=request_id,
        )
        return await self._dataplane.infer(request)
