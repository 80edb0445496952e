"""Each error has one meaning on each protocol, and what is not ours says nothing about itself."""

from __future__ import annotations

import inspect

import grpc
import orjson
import pytest

from service import errors
from service.api.http import error_answer
from service.api.status import refusal

EXPECTED = {
    errors.InvalidRequest: (400, "INVALID_ARGUMENT"),
    errors.Unauthenticated: (401, "UNAUTHENTICATED"),
    errors.Forbidden: (403, "PERMISSION_DENIED"),
    errors.NotFound: (404, "NOT_FOUND"),
    errors.MethodNotAllowed: (405, "UNIMPLEMENTED"),
    errors.RequestTooSlow: (408, "DEADLINE_EXCEEDED"),
    errors.PayloadTooLarge: (413, "RESOURCE_EXHAUSTED"),
    errors.UnsupportedEncoding: (415, "UNIMPLEMENTED"),
    errors.Cancelled: (499, "CANCELLED"),
    errors.ModelFailed: (500, "INTERNAL"),
    errors.NotOffered: (501, "UNIMPLEMENTED"),
    errors.Overloaded: (503, "UNAVAILABLE"),
    errors.Unavailable: (503, "UNAVAILABLE"),
    errors.DeadlineExceeded: (504, "DEADLINE_EXCEEDED"),
}


def test_the_table_is_complete() -> None:
    defined = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.ServiceError)}
    assert defined - {errors.ServiceError} == set(EXPECTED)


@pytest.mark.parametrize("kind", EXPECTED)
def test_each_error(kind: type[errors.ServiceError]) -> None:
    found = refusal(kind("what happened"), "r1")
    assert (found.http, found.grpc.name, found.message) == (*EXPECTED[kind], "what happened")


def test_overload_says_when_to_come_back() -> None:
    found = refusal(errors.Overloaded("full", retry_after_s=1.2), "r1")
    assert (found.retry_after_s, found.retry_after_header) == (1.2, "2")
    spent = refusal(errors.Overloaded("spent", reason="quota"), "r1")
    assert (spent.http, spent.grpc) == (429, grpc.StatusCode.RESOURCE_EXHAUSTED)
    answer = error_answer(found, "r1")
    assert dict(answer.headers)[b"retry-after"] == b"2"


def test_strangers_are_logged_not_told(caplog: pytest.LogCaptureFixture) -> None:
    found = refusal(RuntimeError("secret at /root/x"), "r1")
    assert (found.http, found.grpc) == (500, grpc.StatusCode.INTERNAL)
    assert "secret" not in found.message and "r1" in found.message
    assert "secret at /root/x" in caplog.text and "r1" in caplog.text


def test_a_message_that_is_not_unicode_still_is_an_answer() -> None:
    body = orjson.loads(error_answer(refusal(errors.NotFound("\ud800"), "r1"), "r1").body)
    assert body == {"error": "?", "request_id": "r1"}
