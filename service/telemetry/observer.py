"""The seam through which logs and further metrics see the fate of every request."""

from __future__ import annotations

from typing import Protocol

from service.types import Completion, Work


class RequestObserver(Protocol):
    """Told once about every request that named a loaded model. Must be fast and must not raise."""

    def answered(self, work: Work, completion: Completion, latency_s: float) -> None: ...

    def refused(self, model: str, version: str, error: BaseException, latency_s: float) -> None:
        """error: what the client gets: a ServiceError; Cancelled if the client went away."""
