"""What the service does, without any transport: live, ready, metadata, infer, load, unload, index, statistics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.interface import ModelSpec, ServableModel
from service.errors import Cancelled, InvalidRequest, ModelFailed, NotOffered, Overloaded, ServiceError
from service.inference.classification import classify
from service.inference.compute import compute_parameters
from service.inference.executor import Executor
from service.inference.model_config import model_config
from service.inference.readiness import Readiness
from service.inference.repository import IndexEntry, ModelRepository
from service.inference.statistics import Statistics
from service.inference.validation import RequestChecker
from service.telemetry.observer import RequestObserver
from service.types import Completion, Haste, InferRequest, InferResponse, OutputRequest, OutputTensor, Work
from swan_runtime.errors import InvalidInputError

logger = logging.getLogger(__name__)

EXTENSIONS = (
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What the server says it is; name "triton" satisfies clients that insist on it."""

    name: str = "swan-serve"
    version: str = "0.1.0"


@dataclass(frozen=True, slots=True)
class _Served:
    """A loaded model with what is derived from it once."""

    model: ServableModel
    spec: ModelSpec
    checker: RequestChecker
    datatypes: Mapping[str, str]

    @staticmethod
    def of(model: ServableModel) -> _Served:
        spec = model.spec
        datatypes = {tensor.name: tensor.datatype for tensor in spec.outputs}
        return _Served(model, spec, RequestChecker(spec, gated=model.table is not None), datatypes)


class Dataplane:
    """Decides; transports only translate. observers: metrics and logs, told once about every request."""

    def __init__(
        self,
        repository: ModelRepository,
        executor: Executor,
        readiness: Readiness,
        identity: ServerIdentity | None = None,
        observers: Sequence[RequestObserver] = (),
    ) -> None:
        self.identity = identity or ServerIdentity()
        self.readiness = readiness
        self._repository = repository
        self._executor = executor
        self._observers = tuple(observers)
        self._statistics: dict[tuple[str, str], Statistics] = {}
        self._served: dict[tuple[str, str], _Served] = {}

    def live(self) -> bool:
        return True

    def ready(self) -> bool:
        return bool(self.readiness)

    def model_ready(self, name: str, version: str = "") -> bool:
        """False for whatever cannot be asked, known or not."""
        try:
            self._repository.find(name, version)
        except ServiceError:
            return False
        return self.ready()

    def spec(self, name: str, version: str = "") -> ModelSpec:
        """Raises NotFound, InvalidRequest or Unavailable, as all that name a model."""
        return self._find(name, version).spec

    def versions(self, name: str) -> tuple[str, ...]:
        return self._repository.versions(name)

    def config(self, name: str, version: str = "") -> dict[str, Any]:
        return model_config(self._find(name, version).model)

    def index(self, only_ready: bool = False) -> tuple[IndexEntry, ...]:
        entries = self._repository.index()
        return tuple(entry for entry in entries if entry.state == "READY") if only_ready else entries

    async def load(self, name: str, parameters: Sequence[str] = ()) -> None:
        """parameters: names the client sent; overrides of configuration or files are never taken from the network."""
        if parameters:
            raise NotOffered(
                f"loading '{name[:128]}': a model cannot be overridden by parameter '{parameters[0][:128]}'"
            )
        await self._repository.load(name)

    async def unload(self, name: str) -> None:
        await self._repository.unload(name)

    def statistics(self, name: str = "", version: str = "") -> dict[tuple[str, str], Statistics]:
        """Of one model's version (all its loaded versions for ""), or of all loaded models."""
        if name:
            spec = self.spec(name, version)
            wanted = [(name, one) for one in ((version,) if version else self.versions(name) or (spec.version,))]
        else:
            wanted = [(entry.name, entry.version) for entry in self.index(only_ready=True)]
        return {key: self._counters(*key) for key in wanted}

    def trace_settings(self, name: str = "") -> dict[str, list[str]]:
        """Triton's trace settings: always off, since traces are exported by OpenTelemetry instead."""
        if name:
            self.spec(name)
        off = {
            "trace_rate": "1000",
            "trace_count": "-1",
            "log_frequency": "0",
            "trace_file": "",
            "trace_mode": "triton",
        }
        return {"trace_level": ["OFF"], **{key: [value] for key, value in off.items()}}

    def log_settings(self) -> dict[str, bool | int | str]:
        enabled = logger.isEnabledFor
        return {
            "log_file": "",
            "log_info": enabled(logging.INFO),
            "log_warning": enabled(logging.WARNING),
            "log_error": enabled(logging.ERROR),
            "log_verbose_level": int(enabled(logging.DEBUG)),
            "log_format": "default",
        }

    def update_trace_settings(self, settings: Mapping[str, list[str]], name: str = "") -> dict[str, list[str]]:
        """Accepts what is already so; raises NotOffered for a change, InvalidRequest for an unknown setting."""
        current = self.trace_settings(name)
        _refuse_changes("trace", current, settings)
        return current

    def update_log_settings(self, settings: Mapping[str, Any]) -> dict[str, bool | int | str]:
        """As update_trace_settings: the log is configured where the service is started."""
        current = self.log_settings()
        _refuse_changes("log", current, settings)
        return current

    async def infer(self, request: InferRequest) -> InferResponse:
        """Raises ServiceError; CancelledError when the client is gone."""
        served = self._find(request.model, request.version)
        spec = served.spec
        try:
            work, completion, outputs = await self._run(served, request)
            answer = tuple(_output(served, output, completion) for output in outputs)
        except BaseException as error:
            refusal = self._refusal(error, request)
            self._tell_refused(spec, refusal, time.monotonic() - request.arrival_s)
            if refusal is error:
                raise
            raise refusal from None
        latency_s = time.monotonic() - request.arrival_s
        self._counters(spec.name, spec.version).answered(work.rows, completion, latency_s)
        for observer in self._observers:
            observer.answered(work, completion, latency_s)
        return InferResponse(spec.name, spec.version, request.id, answer, compute_parameters(completion))

    @property
    def flooded(self) -> bool:
        """Whether `turns_away` can be true of any request."""
        return self._executor.flooded

    def turns_away(self, name: str, version: str, haste: Haste, error: Overloaded) -> bool:
        """Whether one more request is surplus; then it is counted as refused with `error`."""
        try:
            spec = self._find(name, version).spec
        except ServiceError:  # for the long way to answer
            return False
        if self._executor.takes(spec.name, spec.version, haste):
            return False
        self._tell_refused(spec, error, haste.age_s)
        return True

    def turned_away(self, name: str, version: str, error: Overloaded, arrival_s: float) -> None:
        """Count a request that was refused before it was read. A name that no model has is nobody's statistics."""
        with contextlib.suppress(ServiceError):
            spec = self._find(name, version).spec
            self._executor.count_shed(spec.name, spec.version, error.reason)
            self._tell_refused(spec, error, time.monotonic() - arrival_s)

    async def _run(self, served: _Served, request: InferRequest) -> tuple[Work, Completion, tuple[OutputRequest, ...]]:
        rows = served.checker.rows(request)
        outputs = served.checker.outputs(request)
        spec = served.spec
        work = Work(
            spec.name, spec.version, request.inputs, rows, request.contract, request.arrival_s, request.request_id
        )
        return work, await self._executor.submit(work), outputs

    def _refusal(self, error: BaseException, request: InferRequest) -> BaseException:
        """What the client may know of an error."""
        if isinstance(error, ServiceError) or not isinstance(error, Exception):
            return error
        if isinstance(error, InvalidInputError):
            return InvalidRequest(str(error))
        logger.error("model %s failed, request %s", request.model, request.request_id, exc_info=error)
        return ModelFailed(f"model '{request.model}' failed on this request; the server log says why")

    def _tell_refused(self, spec: ModelSpec, error: BaseException, latency_s: float) -> None:
        seen = Cancelled("the client went away") if isinstance(error, asyncio.CancelledError) else error
        self._counters(spec.name, spec.version).refused(latency_s)
        for observer in self._observers:
            observer.refused(spec.name, spec.version, seen, latency_s)

    def _counters(self, name: str, version: str) -> Statistics:
        found = self._statistics.get((name, version))
        if found is None:
            found = self._statistics[name, version] = Statistics()
        return found

    def _find(self, name: str, version: str) -> _Served:
        model = self._repository.find(name, version)
        served = self._served.get((name, version))
        if served is None or served.model is not model:
            served = self._served[name, version] = _Served.of(model)
        return served


def _output(served: _Served, output: OutputRequest, completion: Completion) -> OutputTensor:
    array = completion.outputs[output.name]
    if not output.classification:
        return OutputTensor(output.name, served.datatypes[output.name], array)
    labels = served.spec.labels if output.name == served.spec.outputs[0].name else ()
    return OutputTensor(output.name, "BYTES", classify(array, output.classification, labels))


def _refuse_changes(what: str, current: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for key, value in wanted.items():
        if key not in current:
            raise InvalidRequest(f"unknown {what} setting '{key[:64]}'; there are: {', '.join(current)}")
        if value != current[key]:
            raise NotOffered(f"{what} setting '{key}' is read-only here; set it where the service is started")
