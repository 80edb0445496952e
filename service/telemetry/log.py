"""Structured logs: JSON for machines, text for people; every line carries the request id; the access log is sampled."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor

MAX_FIELD_CHARS = 256  # a client's string in a log line is cut here
OWN_LOGGERS = ("swan", "service", "models", "swan_runtime", "uvicorn", "asyncio")

_REQUEST_ID: ContextVar[str] = ContextVar("swan_request_id", default="")


class LogFormat(StrEnum):
    JSON = "json"
    HUMAN = "human"
    AUTO = "auto"  # HUMAN on a terminal, else JSON


def configure(level: str = "info", log_format: LogFormat = LogFormat.AUTO, stream: TextIO | None = None) -> None:
    """Set up structlog and route uvicorn's and asyncio's own loggers through it; Ray keeps its own files.

    Called once by the composition root of a process. level: debug, info, warning or error. Raises ValueError on others.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r}: expected debug, info, warning or error")
    out = stream or sys.stderr
    human = log_format is LogFormat.HUMAN or (log_format is LogFormat.AUTO and out.isatty())
    shared = _shared_processors(human)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=human and out.isatty()) if human else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _cut_long_strings, renderer],
        )
    )
    for name in OWN_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(max(number, logging.WARNING) if name == "uvicorn" else number)  # its start is not news


def _shared_processors(human: bool) -> list[Processor]:
    processors: list[Processor] = [
        _add_request_id,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # ConsoleRenderer draws tracebacks itself; JSON wants them as one string
    return processors if human else [*processors, structlog.processors.format_exc_info]


def _cut_long_strings(logger: Any, name: str, event: Any) -> Any:
    """A client's string may be long or hold control characters: neither may break up or flood the log."""
    for key, value in event.items():
        if isinstance(value, str) and key not in ("exception", "event", "timestamp"):
            event[key] = "".join(c if c.isprintable() else "\ufffd" for c in value[:MAX_FIELD_CHARS])
    return event


def get(name: str) -> FilteringBoundLogger:
    """The logger of one module: `log.get("scheduler").info("shed", model=..., age_s=...)`."""
    logger: FilteringBoundLogger = structlog.get_logger(f"swan.{name}")
    return logger


class RequestContext:
    """Every line logged inside, also from tasks started inside, carries the id. Costs well under a microsecond."""

    __slots__ = ("_before", "_request_id")

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id

    def __enter__(self) -> None:
        self._before = _REQUEST_ID.get()
        _REQUEST_ID.set(self._request_id)

    def __exit__(self, *error: object) -> None:
        # NOTE: set, not reset: a stream may be closed by another task than the one that opened it
        _REQUEST_ID.set(self._before)


def _add_request_id(logger: Any, name: str, event: Any) -> Any:
    request_id = _REQUEST_ID.get()
    if request_id:
        event.setdefault("request_id", request_id)
    return event


@dataclass(frozen=True, slots=True)
class Access:
    """One inference request's end. outcome: ok, or the name of the error; failed: the service's own fault."""

    model: str
    version: str
    outcome: str
    latency_s: float
    tenant: str = ""
    failed: bool = False


class AccessLog:
    """A sampled access log: every failure, and `ratio` of the rest (0 none, 1 all)."""

    def __init__(self, ratio: float, seed: int | None = None) -> None:
        if not 0.0 <= ratio <= 1.0:
            raise ValueError(f"access log ratio {ratio!r}: expected 0 to 1")
        self._ratio = ratio
        self._random = random.Random(seed)
        self._log = get("access")

    def wanted(self, failed: bool) -> bool:
        """Whether the next request is logged: asked first, so that the fields of the others are never computed."""
        return failed or (self._ratio > 0.0 and self._random.random() < self._ratio)

    def write(self, access: Access, fields: Mapping[str, Any]) -> None:
        write = self._log.error if access.failed else self._log.info
        tenant = {"tenant": access.tenant} if access.tenant else {}
        write(
            "request",
            model=access.model,
            version=access.version,
            outcome=access.outcome,
            latency_ms=round(access.latency_s * 1e3, 3),
            **tenant,
            **fields,
        )
