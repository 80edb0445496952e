"""Reads what a client asks of its answer: deadline, priority and quality, from parameters, headers and transport."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from service.errors import InvalidRequest
from service.types import Contract, DeadlinePolicy, ParameterValue, Quality

PARAMETERS = frozenset({"timeout", "priority", "quality", "quality_min", "quality_max", "deadline_policy"})
TIMEOUT_HEADER = "x-request-timeout-seconds"
QUALITY_HEADER = "x-quality-min"
PRIORITY_HEADER = "priority"

_URGENCY = re.compile(r"(?:^|[,;\s])u=([0-7])(?:$|[,;\s])")
_DEFAULT_URGENCY = 3
_HIGH, _DEFAULT, _LOW = 1, 0, 3


def parse_contract(
    parameters: Mapping[str, ParameterValue],
    headers: Mapping[str, str],
    transport_deadline_s: float | None = None,
    tenant: str = "",
) -> Contract:
    """The contract of one request. Of several deadlines the smallest wins, of several quality floors the largest.

    headers: lower-case names (HTTP headers or gRPC metadata). Raises InvalidRequest that names the allowed values.
    """
    for name in parameters:
        if name.startswith("quality") and name not in PARAMETERS:
            raise InvalidRequest(
                f"unknown parameter '{name[:64]}'; of this kind there are: quality, quality_min, quality_max"
            )
    if transport_deadline_s is None and PARAMETERS.isdisjoint(parameters) and _HEADERS.isdisjoint(headers):
        return Contract(tenant=tenant)
    deadlines = [_timeout_parameter(parameters), _timeout_header(headers), transport_deadline_s]
    return Contract(
        timeout_s=min((value for value in deadlines if value is not None), default=None),
        priority=_priority(parameters, headers),
        quality=ANY
        if _QUALITY.isdisjoint(parameters) and QUALITY_HEADER not in headers
        else _quality(parameters, headers),
        deadline_policy=_deadline_policy(parameters),
        tenant=tenant,
    )


ANY = Quality()
_QUALITY = frozenset({"quality", "quality_min", "quality_max"})
_HEADERS = frozenset({TIMEOUT_HEADER, QUALITY_HEADER, PRIORITY_HEADER})


def _timeout_parameter(parameters: Mapping[str, ParameterValue]) -> float | None:
    value = parameters.get("timeout")
    if value is None or (value == 0 and value is not False):
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidRequest(f"parameter 'timeout': expected microseconds as an integer >= 0, got {value!r}")
    return value * 1e-6


def _timeout_header(headers: Mapping[str, str]) -> float | None:
    text = headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    value = _number(text)
    if value is None:
        raise InvalidRequest(f"header '{TIMEOUT_HEADER}': expected seconds, got {text[:32]!r}")
    return value if value > 0 else None


def _priority(parameters: Mapping[str, ParameterValue], headers: Mapping[str, str]) -> int:
    value = parameters.get("priority")
    if value is not None:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise InvalidRequest(
                f"parameter 'priority': expected an integer, 0 = default, 1 = highest, got {_shown(value)}"
            )
        return value
    match = _URGENCY.search(headers.get(PRIORITY_HEADER, ""))
    if match is None:
        return _DEFAULT
    urgency = int(match.group(1))
    if urgency == _DEFAULT_URGENCY:
        return _DEFAULT
    return _HIGH if urgency < _DEFAULT_URGENCY else _LOW


def _quality(parameters: Mapping[str, ParameterValue], headers: Mapping[str, str]) -> Quality:
    minimum = _share("parameter 'quality_min'", parameters.get("quality_min"), 0.0)
    maximum = _share("parameter 'quality_max'", parameters.get("quality_max"), 1.0)
    minimum = max(minimum, _share(f"header '{QUALITY_HEADER}'", headers.get(QUALITY_HEADER), 0.0))
    if maximum == 0.0:
        raise InvalidRequest("parameter 'quality_max': expected a number in (0, 1], got 0")
    if minimum > maximum:
        raise InvalidRequest(f"quality floor {minimum:g} is above the ceiling quality_max {maximum:g}")
    wanted = parameters.get("quality", "auto")
    if wanted == "auto":
        return Quality(minimum, maximum)
    budget = 1.0 if wanted == "full" else _number(wanted)
    if budget is None or not 0.0 < budget <= 1.0:
        raise InvalidRequest(f"parameter 'quality': expected auto, full or a budget in (0, 1], got {_shown(wanted)}")
    if not minimum <= budget <= maximum:
        raise InvalidRequest(
            f"parameter 'quality': {budget:g} is outside [quality_min, quality_max] = [{minimum:g}, {maximum:g}]"
        )
    return Quality(budget, budget)


def _share(what: str, value: ParameterValue | None, default: float) -> float:
    if value is None:
        return default
    number = _number(value)
    if number is None or not 0.0 <= number <= 1.0:
        raise InvalidRequest(f"{what}: expected a number from 0 to 1, got {_shown(value)}")
    return number


def _deadline_policy(parameters: Mapping[str, ParameterValue]) -> DeadlinePolicy:
    value = parameters.get("deadline_policy", DeadlinePolicy.DEGRADE)
    if isinstance(value, str) and value in _POLICIES:
        return _POLICIES[value]
    raise InvalidRequest(f"parameter 'deadline_policy': expected one of {', '.join(_POLICIES)}, got {_shown(value)}")


_POLICIES = {policy.value: policy for policy in DeadlinePolicy}


def _number(value: ParameterValue) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _shown(value: ParameterValue) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
