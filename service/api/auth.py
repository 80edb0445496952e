"""Who may call what: every route and RPC has one scope, checked in one place before anything else is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from service.errors import Forbidden


class Scope(StrEnum):
    HEALTH = "health"  # never checked: probes carry no key
    INFER = "infer"
    ADMIN = "admin"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class Caller:
    """tenant: who pays for the MACs, "" when tenants are not told apart."""

    tenant: str = ""


class Authorizer(Protocol):
    def __call__(self, headers: Mapping[str, str], scope: Scope) -> Caller:
        """headers: lower-case HTTP header names or gRPC metadata keys.

        Raises Unauthenticated, Forbidden, or Overloaded with reason "quota".
        """


MAX_TENANT_CHARS = 64


class AllowAll:
    """No keys. The admin plane stays closed unless `admin` opens it to everybody.

    tenant_header: names the tenant of a request, "" = tenants are not told apart. Whoever sets it is believed: a
    gateway in front of the service must set it, or clients choose their own.
    """

    def __init__(self, admin: bool = False, tenant_header: str = "") -> None:
        self._admin = admin
        self._tenant_header = tenant_header
        self._caller = Caller()

    def __call__(self, headers: Mapping[str, str], scope: Scope) -> Caller:
        if scope is Scope.ADMIN and not self._admin:
            raise Forbidden("the admin plane is off; start the service with an admin key to use it")
        if self._tenant_header:
            return Caller(headers.get(self._tenant_header, "")[:MAX_TENANT_CHARS])
        return self._caller
