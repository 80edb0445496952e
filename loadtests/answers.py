"""What came back for one request, read from either protocol into the same record."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray


class Outcome(IntEnum):
    """How a request ended, as the client saw it."""

    OK = 0
    REFUSED = 1  # 503 / 429 / UNAVAILABLE / RESOURCE_EXHAUSTED, and when to come back: the service said no
    EXPIRED = 2  # 504 / DEADLINE_EXCEEDED: the service gave the request up
    ERROR = 3  # any other answer
    LOST = 4  # no answer: connection reset, client timeout


TURNED_AWAY = (Outcome.REFUSED, Outcome.EXPIRED)  # by a service that chose to
FAILED = (Outcome.ERROR, Outcome.LOST)  # what no client can do anything about


@dataclass(frozen=True, slots=True)
class Answer:
    """parameters: the response parameters; output: the first output's row, None without an answer."""

    outcome: Outcome
    parameters: Mapping[str, Any]
    output: NDArray[np.float32] | None = None
    retry_after_s: float = 0.0
    detail: str = ""

    @property
    def said(self) -> str:
        """One text for all requests that failed alike: the detail without what is each request's own."""
        return " ".join(re.sub(r"\b[0-9a-f]{16}\b", "...", self.detail).split()) or "(no text)"


HTTP_OUTCOMES = {429: Outcome.REFUSED, 503: Outcome.REFUSED, 504: Outcome.EXPIRED}


def from_http(status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
    """Read an HTTP answer; header names are lower case. A refusal that does not say when to come back is an error."""
    if status != 200:
        outcome, retry_after = HTTP_OUTCOMES.get(status, Outcome.ERROR), headers.get(b"retry-after", b"")
        retry_after_s = int(retry_after) if retry_after.isdigit() else None
        if outcome is Outcome.REFUSED and retry_after_s is None:
            outcome = Outcome.ERROR
        return Answer(outcome, {}, None, retry_after_s or 0.0, f"{status} {_said(body)}")
    length = headers.get(b"inference-header-content-length")
    head = orjson.loads(body[: int(length)] if length else body)
    first = head["outputs"][0]
    if length:
        data = np.frombuffer(body, np.float32, offset=int(length), count=math.prod(first["shape"]))
    else:
        data = np.asarray(first["data"], np.float32)
    return Answer(Outcome.OK, head.get("parameters") or {}, data)


def _said(body: bytes) -> str:
    """The text of an error's body: ours is JSON, a proxy's may be HTML."""
    try:
        return str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body[:200].decode("latin-1")


def from_grpc(payload: bytes) -> Answer:
    """Read a serialized ModelInferResponse."""
    from tritonclient.grpc import service_pb2

    response = service_pb2.ModelInferResponse.FromString(payload)
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in response.parameters.items()
    }
    return Answer(Outcome.OK, parameters, np.frombuffer(response.raw_output_contents[0], np.float32))
