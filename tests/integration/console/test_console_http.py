import base64
import http.client
import json

import pytest

from service.api.auth import Scope
from service.security.keys import ApiKeyAuthorizer, KeyRing, create
from tests.support.console_server import console_server


@pytest.fixture(scope="module")
def server():
    with console_server().running() as running:
        yield running


def _call(server, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(server.http_url, timeout=30)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    answer = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return answer


def _infer(server, **body):
    status, _, raw = _call(server, "POST", "/console/infer", json.dumps(body))
    return status, json.loads(raw)


def test_the_page_is_served_with_its_policy(server):
    status, headers, body = _call(server, "GET", "/")
    assert status == 200 and body.startswith(b"<!doctype html>")
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in headers["content-security-policy"] and headers["x-request-id"]


def test_a_sample_is_answered_with_its_units_and_shows_up_live(server):
    samples = json.loads(_call(server, "GET", "/console/samples?model=tiny-fashion")[2])["samples"]
    status, answer = _infer(server, model="tiny-fashion", budget=0.25, pixels=samples[1]["pixels"])
    assert status == 200
    (layer,) = answer["layers"]
    fired = base64.b64decode(layer["fired"])
    assert sum(value > 0 for value in fired) == layer["units_active"] < len(fired)
    assert answer["parameters"]["quality_limited_by"] == "request"
    assert answer["parameters"]["quality_activity"] == pytest.approx(layer["units_active"] / layer["units_total"])
    live = json.loads(_call(server, "GET", "/console/live")[2])
    totals = live["models"]["tiny-fashion"]
    assert live["ready"] and totals["answered"] == 1 == sum(totals["latency_counts"])
    assert totals["budget_sum"] == 0.25 and totals["budget_count"] == 1


def test_errors_are_the_services_own(server):
    for method, path, body, status in (
        ("POST", "/console/infer", "{", 400),
        ("POST", "/console/infer", json.dumps({"model": "none"}), 404),
        ("GET", "/console/infer", None, 405),
        ("POST", "/console/live", "{}", 405),
        ("GET", "/console/none", None, 404),
    ):
        found, _, raw = _call(server, method, path, body)
        assert found == status and json.loads(raw)["error"], path
    found, _, raw = _call(server, "POST", "/console/infer", headers={"content-length": str(5 << 20)})
    assert found == 413 and json.loads(raw)["error"]


def test_with_keys_only_the_page_is_open():
    key, entry = create("web", [Scope.INFER], tenant="shop")
    metrics_key, metrics_entry = create("prom", [Scope.METRICS])
    ring = KeyRing([entry, metrics_entry])
    with console_server(ApiKeyAuthorizer(lambda: ring)).running() as server:
        assert _call(server, "GET", "/")[0] == 200
        for path in ("/console/overview", "/console/live", "/console/samples?model=tiny-fashion"):
            assert _call(server, "GET", path)[0] == 401
            assert _call(server, "GET", path, headers={"x-api-key": metrics_key})[0] == 403
            assert _call(server, "GET", path, headers={"authorization": f"Bearer {key}"})[0] == 200
        assert _call(server, "POST", "/console/infer", "{}")[0] == 401
