"""JSON from strangers: bounded in size and depth, with the NaN and Infinity literals that clients send."""

from __future__ import annotations

import json
from typing import Any

import orjson

from service.errors import InvalidRequest, PayloadTooLarge
from service.inference.limits import Limits


def read_json_object(data: bytes | memoryview, limits: Limits) -> dict[str, Any]:
    """Raises InvalidRequest for anything but one JSON object, PayloadTooLarge over the limit."""
    if len(data) > limits.max_json_bytes:
        raise PayloadTooLarge(f"the JSON part has {len(data)} bytes, at most {limits.max_json_bytes} are taken")
    value = _parse(data)
    if type(value) is not dict:
        raise InvalidRequest(f"expected a JSON object, got {_kind(value)}")
    return value


def _parse(data: bytes | memoryview) -> Any:
    """orjson is strict and fast but refuses NaN and Infinity; the standard library takes them."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if len(data) == 0:
            raise InvalidRequest("expected a JSON object, got an empty body") from None
        reason = f"{error.msg} at byte {error.pos}"
    text = bytes(data)
    if b"NaN" not in text and b"Infinity" not in text:
        raise InvalidRequest(f"malformed JSON: {reason}")
    try:
        return json.loads(text)
    except RecursionError:
        raise InvalidRequest("malformed JSON: nested too deeply") from None
    except ValueError:
        raise InvalidRequest(f"malformed JSON: {reason}") from None


def check_depth(value: Any, limits: Limits) -> None:
    """Refuse JSON nested deeper than the limit; iterative. Tensor data is not walked here: its shape bounds it."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > limits.max_json_depth:
            raise InvalidRequest(f"malformed JSON: nested deeper than {limits.max_json_depth}")
        level = [child for node in level for child in _children(node)]


def _children(node: Any) -> list[Any]:
    if type(node) is dict:
        return [child for child in node.values() if type(child) in (dict, list)]
    if type(node) is list:
        return [child for child in node if type(child) in (dict, list)]
    return []


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
