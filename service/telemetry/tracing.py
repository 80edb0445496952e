"""Optional OpenTelemetry traces through the OTLP exporter; without an endpoint nothing is imported and nothing runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

AttributeValue = str | bool | int | float


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """endpoint: OTLP/HTTP collector, e.g. http://collector:4318; empty = no tracing. ratio: share of root spans kept.

    A request that arrives with a W3C `traceparent` keeps its caller's sampling decision.
    """

    endpoint: str = ""
    ratio: float = 0.01
    service_name: str = "swan-serve"

    def __post_init__(self) -> None:
        if not 0.0 <= self.ratio <= 1.0:
            raise ValueError(f"trace ratio {self.ratio!r}: expected 0 to 1")
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(f"trace endpoint {self.endpoint!r}: expected http://HOST:PORT or https://HOST:PORT")


class Span(Protocol):
    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None: ...


class Tracer(Protocol):
    """`with tracer.span("infer", headers) as span: ...`; an exception that leaves the block marks the span failed."""

    def span(self, name: str, headers: Mapping[str, str] | None = None) -> AbstractContextManager[Span]: ...

    def close(self) -> None:
        """Send what is buffered."""


class _NullSpan:
    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        return None


_NOTHING = nullcontext(_NullSpan())


class NullTracer:
    """Tracing off: one shared object, about 0.1 us a span."""

    def span(self, name: str, headers: Mapping[str, str] | None = None) -> AbstractContextManager[Span]:
        return _NOTHING

    def close(self) -> None:
        return None


class OtlpTracer:
    """Spans of this process, exported in batches by a background thread."""

    def __init__(self, settings: TraceSettings, exporter: Any = None) -> None:
        """exporter: another OpenTelemetry SpanExporter than OTLP over HTTP to settings.endpoint."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.ratio)),
            resource=Resource.create({"service.name": settings.service_name}),
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter or _otlp_exporter(settings.endpoint)))
        self._tracer = self._provider.get_tracer("swan")
        self._propagator = TraceContextTextMapPropagator()

    def span(self, name: str, headers: Mapping[str, str] | None = None) -> AbstractContextManager[Span]:
        context = self._propagator.extract(headers) if headers and "traceparent" in headers else None
        started: AbstractContextManager[Span] = self._tracer.start_as_current_span(name, context=context)
        return started

    def flush(self) -> None:
        self._provider.force_flush()

    def close(self) -> None:
        self._provider.shutdown()


def _otlp_exporter(endpoint: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")


def build_tracer(settings: TraceSettings) -> Tracer:
    """The tracer for the settings. Raises RuntimeError when one is set but the `otlp` extra is missing."""
    if not settings.endpoint:
        return NullTracer()
    if importlib.util.find_spec("opentelemetry") is None:
        raise RuntimeError("tracing is configured but not installed: pip install 'swan-serve[otlp]'")
    return OtlpTracer(settings)
