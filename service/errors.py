"""Everything the service answers on purpose, by meaning; api/status.py maps it to HTTP and gRPC once.

ServiceError
├── InvalidRequest         the request cannot be understood or does not fit the model
├── Unauthenticated        no or wrong credential
├── Forbidden              a credential without the scope
├── NotFound               no such model, version or route
├── PayloadTooLarge        over a size limit
├── UnsupportedEncoding    a content encoding that is not offered
├── MethodNotAllowed       the route exists, the method does not
├── NotOffered             a feature of the protocol that this service does not offer
├── Overloaded             refused before work; retry_after_s says when to come back
│   └── Unavailable        the model or server is not ready, loading, unloading or draining
├── DeadlineExceeded       the deadline passed before an answer
├── RequestTooSlow         the client took too long to send its request
├── Cancelled              the client went away
└── ModelFailed            the model raised; details are in the log only
"""

from __future__ import annotations


class ServiceError(Exception):
    """Base: `message` is safe to show to the client (no paths, tracebacks, addresses)."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(ServiceError): ...


class Unauthenticated(ServiceError): ...


class Forbidden(ServiceError): ...


class NotFound(ServiceError): ...


class PayloadTooLarge(ServiceError): ...


class UnsupportedEncoding(ServiceError): ...


class MethodNotAllowed(ServiceError): ...


class NotOffered(ServiceError): ...


class Overloaded(ServiceError):
    """Refused before any work.

    reason: admission | queue_full | floor | deadline | evicted | quota | surplus | ingress | draining | memory.
    """

    def __init__(self, message: str, retry_after_s: float = 1.0, reason: str = "admission") -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.reason = reason


class Unavailable(Overloaded): ...


class DeadlineExceeded(ServiceError): ...


class RequestTooSlow(ServiceError): ...


class Cancelled(ServiceError): ...


class ModelFailed(ServiceError): ...
