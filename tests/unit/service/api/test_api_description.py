"""The OpenAPI document: valid, complete, and readable by people without fetching anything."""

from __future__ import annotations

import re
from typing import Any

import pytest
from openapi_spec_validator import validate

from service.api.application import OipApp
from service.api.auth import Scope
from service.api.http import Call, ExtraRoute
from service.api.openapi import ApiDescription
from service.inference.dataplane import Dataplane
from service.inference.executor import DirectExecutor
from service.inference.readiness import Readiness
from service.inference.repository import LiveRepository
from tests.support.tiny_models import MemorySource


async def handler(scope: Any, receive: Any, send: Any) -> None:
    """Never called here."""


EXTRA = (
    ExtraRoute("/metrics", ("GET",), Scope.METRICS, handler, "Prometheus & text."),
    ExtraRoute("/console/{file:path}", ("GET",), Scope.HEALTH, handler, "Pages."),
    ExtraRoute("/admin/control", ("GET", "POST"), Scope.ADMIN, handler),
)


@pytest.fixture
def app() -> OipApp:
    repository = LiveRepository(MemorySource({}))
    return OipApp(Dataplane(repository, DirectExecutor(repository.find), Readiness()), extra_routes=EXTRA)


def test_the_document_is_valid() -> None:
    validate(ApiDescription("swan-serve", "1.2.3", EXTRA).document)


def test_every_route_is_described_and_nothing_else(app: OipApp) -> None:
    routed = {
        (re.sub(r":\w+}", "}", route.path), method.lower())
        for route in app.routes
        for method in route.methods - {"HEAD"}
    }
    paths = app.description.document["paths"]
    described = {(path, method) for path, item in paths.items() for method in item if method in ("get", "post")}
    assert described == routed


def test_routes_that_need_no_key_say_so(app: OipApp) -> None:
    paths = app.description.document["paths"]
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/{model}/ready", "/console/{file}"):
        assert paths[path]["get"]["security"] == []
    assert "security" not in paths["/v2"]["get"]


async def test_the_page_is_self_contained(app: OipApp) -> None:
    call = Call("GET", {}, {}, handler, "r1")  # type: ignore[arg-type]
    page = (await app.description.docs(call)).body.decode()
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:|//)", page)
    assert "<script" not in page
    for path in app.description.document["paths"]:
        assert f"<code>{path}</code>" in page
    assert "Prometheus &amp; text." in page
