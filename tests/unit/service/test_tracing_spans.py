import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from service.telemetry.tracing import NullTracer, OtlpTracer, TraceSettings, build_tracer

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector():
    """A real OTLP/HTTP endpoint on loopback; yields (url, bodies)."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            return None

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    thread.join()
    server.server_close()


def test_without_an_endpoint_nothing_is_imported():
    code = (
        "import sys; from service.telemetry.tracing import *; t = build_tracer(TraceSettings())\n"
        "with t.span('infer', {}) as s: s.set_attributes({'a': 1})\n"
        "t.close(); sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_spans_reach_the_collector_with_their_parent_and_attributes(collector):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    url, bodies = collector
    tracer = build_tracer(TraceSettings(endpoint=url, ratio=0.0))
    with tracer.span("dropped by the ratio"):
        pass
    with tracer.span("infer", {"traceparent": PARENT}) as span:
        span.set_attributes({"swan.budget": 0.25, "swan.model": "fashion-mlp"})
        with tracer.span("compute"):
            pass
    tracer.close()
    path, body = bodies[0]
    resource = ExportTraceServiceRequest.FromString(body).resource_spans[0]
    spans = {span.name: span for span in resource.scope_spans[0].spans}
    assert path == "/v1/traces" and set(spans) == {"infer", "compute"}
    assert spans["infer"].trace_id.hex() == PARENT.split("-")[1]
    assert spans["infer"].parent_span_id.hex() == PARENT.split("-")[2]
    assert spans["compute"].parent_span_id == spans["infer"].span_id
    assert {item.key for item in spans["infer"].attributes} == {"swan.budget", "swan.model"}


def test_an_exception_marks_the_span_failed():
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.trace import StatusCode

    exporter = InMemorySpanExporter()
    tracer = OtlpTracer(TraceSettings(endpoint="http://127.0.0.1:1", ratio=1.0), exporter)
    with pytest.raises(KeyError), tracer.span("infer"):
        raise KeyError("x")
    tracer.flush()
    assert exporter.get_finished_spans()[0].status.status_code is StatusCode.ERROR
    tracer.close()


def test_settings_are_checked_and_the_null_tracer_is_the_default():
    assert isinstance(build_tracer(TraceSettings()), NullTracer)
    with pytest.raises(ValueError, match="0 to 1"):
        TraceSettings(ratio=2.0)
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        TraceSettings(endpoint="collector:4317")
