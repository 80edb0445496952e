"""What surrounds and follows a request: its id on every log line, its span, its access line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from service.errors import Cancelled, DeadlineExceeded, InvalidRequest, Overloaded, ServiceError
from service.telemetry.log import Access, AccessLog, RequestContext
from service.telemetry.tracing import NullTracer, Tracer
from service.types import Completion, Work


class Surroundings:
    """Entered around every request: binds its id to all log lines written meanwhile and opens its span."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer or NullTracer()
        self._traced = not isinstance(self._tracer, NullTracer)

    def __call__(self, name: str, request_id: str, headers: Mapping[str, str]) -> AbstractContextManager[None]:
        return self._with_span(name, request_id, headers) if self._traced else RequestContext(request_id)

    @contextmanager
    def _with_span(self, name: str, request_id: str, headers: Mapping[str, str]) -> Iterator[None]:
        with RequestContext(request_id), self._tracer.span(name, headers) as span:
            span.set_attributes({"swan.request_id": request_id})
            yield


class AccessObserver:
    """The access log as a RequestObserver: every failure, and a share of the answers and refusals."""

    def __init__(self, access: AccessLog) -> None:
        self._access = access

    def answered(self, work: Work, completion: Completion, latency_s: float) -> None:
        if self._access.wanted(failed=False):
            fields = {
                "budget": round(completion.budget, 4),
                "activity": round(completion.activity, 4),
                "batch_size": completion.batch_size,
                "queue_ms": round(completion.queue_s * 1e3, 3),
                "deadline_met": completion.deadline_met,
            }
            self._access.write(Access(work.model, work.version, "ok", latency_s, work.contract.tenant), fields)

    def refused(self, model: str, version: str, error: BaseException, latency_s: float) -> None:
        failed = not isinstance(error, InvalidRequest | Overloaded | DeadlineExceeded | Cancelled)
        if self._access.wanted(failed):
            reason = error.message if isinstance(error, ServiceError) else type(error).__name__
            outcome = type(error).__name__
            self._access.write(Access(model, version, outcome, latency_s, failed=failed), {"reason": reason})


class SpanObserver:
    """Writes what an answer cost onto the current span. Only with tracing on."""

    def answered(self, work: Work, completion: Completion, latency_s: float) -> None:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attributes(
            {
                "swan.model": work.model,
                "swan.model_version": work.version,
                "swan.budget": completion.budget,
                "swan.activity": completion.activity,
                "swan.macs": completion.macs,
                "swan.batch_size": completion.batch_size,
                "swan.queue_s": completion.queue_s,
                "swan.compute_s": completion.compute_s,
                "swan.deadline_met": completion.deadline_met,
            }
        )

    def refused(self, model: str, version: str, error: BaseException, latency_s: float) -> None:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attributes({"swan.model": model, "swan.refused": type(error).__name__})
