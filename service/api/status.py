"""The one table from the service's errors to HTTP and gRPC."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import grpc

from service import errors

logger = logging.getLogger(__name__)

_TABLE: dict[type[errors.ServiceError], tuple[int, grpc.StatusCode]] = {
    errors.InvalidRequest: (400, grpc.StatusCode.INVALID_ARGUMENT),
    errors.Unauthenticated: (401, grpc.StatusCode.UNAUTHENTICATED),
    errors.Forbidden: (403, grpc.StatusCode.PERMISSION_DENIED),
    errors.NotFound: (404, grpc.StatusCode.NOT_FOUND),
    errors.MethodNotAllowed: (405, grpc.StatusCode.UNIMPLEMENTED),
    errors.RequestTooSlow: (408, grpc.StatusCode.DEADLINE_EXCEEDED),
    errors.PayloadTooLarge: (413, grpc.StatusCode.RESOURCE_EXHAUSTED),
    errors.UnsupportedEncoding: (415, grpc.StatusCode.UNIMPLEMENTED),
    errors.Cancelled: (499, grpc.StatusCode.CANCELLED),
    errors.ModelFailed: (500, grpc.StatusCode.INTERNAL),
    errors.NotOffered: (501, grpc.StatusCode.UNIMPLEMENTED),
    errors.Overloaded: (503, grpc.StatusCode.UNAVAILABLE),
    errors.DeadlineExceeded: (504, grpc.StatusCode.DEADLINE_EXCEEDED),
}
_QUOTA = (429, grpc.StatusCode.RESOURCE_EXHAUSTED)
_UNEXPECTED = (500, grpc.StatusCode.INTERNAL)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as the client sees it. retry_after_s: None unless coming back later may help."""

    http: int
    grpc: grpc.StatusCode
    message: str
    retry_after_s: float | None = None

    @property
    def retry_after_header(self) -> str:
        """Whole seconds, rounded up, as RFC 9110 wants them."""
        return str(max(1, math.ceil(self.retry_after_s or 0.0)))


def refusal(error: Exception, request_id: str) -> Refusal:
    """Whatever is not a ServiceError is logged and answered with a fixed text."""
    if not isinstance(error, errors.ServiceError):
        logger.error("unexpected error, request %s", request_id, exc_info=error)
        return Refusal(*_UNEXPECTED, f"internal error; the server log has it under request id {request_id}")
    http, code = next((_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE), _UNEXPECTED)
    if isinstance(error, errors.Overloaded):
        if error.reason == "quota":
            http, code = _QUOTA
        return Refusal(http, code, error.message, error.retry_after_s)
    return Refusal(http, code, error.message)
