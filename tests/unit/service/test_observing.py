import io
import json
import logging

import numpy as np
import pytest
import structlog
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.errors import InvalidRequest, ModelFailed, Overloaded
from service.telemetry import log
from service.telemetry.observing import AccessObserver, SpanObserver, Surroundings
from service.telemetry.tracing import OtlpTracer, TraceSettings
from service.types import Completion, Contract, LimitedBy, Work
from swan_runtime.report import ComputeReport, LayerReport

REPORT = ComputeReport(0.5, (LayerReport("a", 25, 100, 2500, 100, 10_000, "rows"),))
WORK = Work("m", "1", {"x": np.zeros((1, 2))}, 1, Contract(tenant="shop"), 0.0, "r7")
COMPLETION = Completion({}, (REPORT,), 0.5, LimitedBy.LOAD, 0.9, 0.002, 0.003, 4, True)


@pytest.fixture
def lines():
    saved = {name: (logging.getLogger(name).handlers, logging.getLogger(name).propagate) for name in log.OWN_LOGGERS}
    stream = io.StringIO()
    log.configure("info", log.LogFormat.JSON, stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()
    for name, (handlers, propagate) in saved.items():
        logging.getLogger(name).handlers, logging.getLogger(name).propagate = handlers, propagate


def test_an_access_line_says_what_was_served_under_which_id(lines):
    with Surroundings()("infer", "r7", {}):
        AccessObserver(log.AccessLog(1.0)).answered(WORK, COMPLETION, 0.006)
    (line,) = lines()
    assert (line["request_id"], line["model"], line["tenant"], line["outcome"]) == ("r7", "m", "shop", "ok")
    assert (line["budget"], line["activity"], line["batch_size"], line["latency_ms"]) == (0.5, 0.25, 4, 6.0)


def test_only_the_services_own_failures_are_always_logged(lines):
    observer = AccessObserver(log.AccessLog(0.0))
    for error in (InvalidRequest("a"), Overloaded("b"), ModelFailed("c"), ValueError("d")):
        observer.refused("m", "1", error, 0.001)
    assert [line["outcome"] for line in lines()] == ["ModelFailed", "ValueError"]
    assert lines()[0]["reason"] == "c" and lines()[1]["reason"] == "ValueError"


def test_a_span_carries_its_request_id_and_what_the_answer_cost():
    exporter = InMemorySpanExporter()
    tracer = OtlpTracer(TraceSettings(endpoint="http://127.0.0.1:1", ratio=1.0), exporter)
    around, observer = Surroundings(tracer), SpanObserver()
    with around("infer", "r7", {}):
        observer.answered(WORK, COMPLETION, 0.006)
    with around("infer", "r8", {}):
        observer.refused("m", "1", Overloaded("busy"), 0.001)
    tracer.flush()
    answered, refused = exporter.get_finished_spans()
    assert answered.attributes["swan.request_id"] == "r7"
    assert answered.attributes["swan.macs"] == REPORT.macs and answered.attributes["swan.budget"] == 0.5
    assert refused.attributes["swan.refused"] == "Overloaded"
    tracer.close()
