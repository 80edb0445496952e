"""What a gRPC call looks like from inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import grpc


class CallContext(Protocol):
    """What a host tells about a call and takes back; grpc.aio and Ray Serve each have an adapter of a few lines."""

    def headers(self) -> dict[str, str]:
        """Metadata, lower-case keys, text values only."""

    def time_remaining(self) -> float | None:
        """Seconds to the client's deadline, None without one."""

    def finish(self, code: grpc.StatusCode | None, details: str, trailing: Sequence[tuple[str, str]]) -> None:
        """Set the status (None = OK) and trailing metadata; what the RPC returns next is ignored unless OK."""
