"""schemathesis on our own OpenAPI document: every route, valid and invalid cases, answers as documented."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from service.api.openapi import ApiDescription
from tests.integration.fuzz.conftest import Target
from tests.support.oip_server import OipServer

QUICK = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
NAMES = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")

SCHEMA = schemathesis.openapi.from_dict(ApiDescription("swan-serve", "0").document)
OPERATIONS = [result.ok() for result in SCHEMA.get_all_operations()]
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


def judge(case: Any, server: OipServer, target: Target) -> None:
    target.cases += 1
    answer = case.call(base_url=f"http://{server.http_url}")
    if answer.status_code in (501, 503):  # typed refusals, documented as the default answer
        assert answer.json()["error"]
    else:
        case.validate_response(answer, checks=[CHECKS.get_one(name) for name in NAMES])
    target.check()


def attack(operation: Any, data: st.DataObject, server: OipServer, target: Target) -> None:
    """Values that the schema allows, or that it forbids where there is anything to forbid."""
    modes = MODES if operation.body or operation.path_parameters or operation.headers else MODES[:1]
    mode = data.draw(st.sampled_from(modes))
    case = data.draw(operation.as_strategy(generation_mode=mode))
    known = data.draw(st.sampled_from(["identity_fp32", "add_sub", "gated", None]))
    if known is not None and "model" in case.path_parameters and "load" not in operation.path:
        case.path_parameters["model"] = known
    judge(case, server, target)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
@QUICK
@given(data=st.data())
def test_documented_routes_quick(operation: Any, data: st.DataObject, server: OipServer, target: Target) -> None:
    attack(operation, data, server, target)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
@settings(QUICK, max_examples=60)
@given(data=st.data())
def test_documented_routes_long(operation: Any, data: st.DataObject, server: OipServer, target: Target) -> None:
    attack(operation, data, server, target)
