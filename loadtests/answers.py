"""What came back for one request, read from either protocol into the same record."""

from __future__ import annotations

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
    REFUSED = 1  # 503 / 429 / UNAVAILABLE / RESOURCE_EXHAUSTED: the service said no, at once
    EXPIRED = 2  # 504 / DEADLINE_EXCEEDED: the service gave the request up
    ERROR = 3  # anything else the service answered
    LOST = 4  # no answer: connection reset, client timeout


@dataclass(frozen=True, slots=True)
class Answer:
    """parameters: the response parameters; output: the first output's row, None without an answer."""

    outcome: Outcome
    parameters: Mapping[str, Any]
    output: NDArray[np.float32] | None = None
    retry_after_s: float = 0.0
    detail: str = ""


HTTP_OUTCOMES = {429: Outcome.REFUSED, 503: Outcome.REFUSED, 504: Outcome.EXPIRED, 408: Outcome.EXPIRED}


def from_http(status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
    """Read an HTTP answer; header names are lower case."""
    if status != 200:
        retry = float(headers.get(b"retry-after", b"0") or 0)
        return Answer(HTTP_OUTCOMES.get(status, Outcome.ERROR), {}, None, retry, f"{status} {body[:200]!r}")
    length = headers.get(b"inference-header-content-length")
    head = orjson.loads(body[: int(length)] if length else body)
    first = head["outputs"][0]
    if length:
        data = np.frombuffer(body, np.float32, offset=int(length), count=int(np.prod(first["shape"])))
    else:
        data = np.asarray(first["data"], np.float32)
    return Answer(Outcome.OK, head.get("parameters") or {}, data)


def from_grpc(payload: bytes) -> Answer:
    """Read a serialized ModelInferResponse."""
    from tritonclient.grpc import service_pb2

    response = service_pb2.ModelInferResponse.FromString(payload)
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in response.parameters.items()
    }
    return Answer(Outcome.OK, parameters, np.frombuffer(response.raw_output_contents[0], np.float32))
