"""What operators set for all replicas at run time, checked where it enters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from service.errors import InvalidRequest


class Mode(StrEnum):
    """What the operator wants of the controller."""

    AUTO = "auto"  # the configured policy decides and acts
    MANUAL = "manual"  # every request gets `budget`, within its own floor and ceiling
    FREEZE = "freeze"  # the budget stays where it is
    SHADOW = "shadow"  # the policy decides and logs, full budget is served


@dataclass(frozen=True, slots=True)
class SetPoints:
    """What operators set for all replicas. version 0 = nobody set anything: the durable `user_config` holds.

    budget: served in mode manual. min_budget, max_budget: rails in every mode.
    draining: ready turns false, new work is refused.
    """

    version: int = 0
    mode: Mode = Mode.AUTO
    budget: float = 1.0
    min_budget: float = 0.0
    max_budget: float = 1.0
    draining: bool = False

    def __post_init__(self) -> None:
        for name in ("budget", "min_budget", "max_budget"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
                raise InvalidRequest(f"{name}: expected a number in [0, 1], got {value!r}")
        if self.budget == 0.0 or self.max_budget == 0.0:
            raise InvalidRequest("budget, max_budget: expected more than 0, got 0")
        if self.min_budget > self.max_budget:
            raise InvalidRequest(f"min_budget: expected at most max_budget ({self.max_budget}), got {self.min_budget}")

    def changed(self, change: Mapping[str, Any]) -> SetPoints:
        """A copy with some fields set. Raises InvalidRequest for an unknown field or a value out of range."""
        known = {field.name for field in fields(self)} - {"version"}
        unknown = sorted(set(change) - known)
        if unknown:
            raise InvalidRequest(f"{unknown[0]}: unknown set-point; known: {', '.join(sorted(known))}")
        values = dict(change)
        if "mode" in values:
            values["mode"] = _mode(values["mode"])
        if not isinstance(values.get("draining", False), bool):
            raise InvalidRequest(f"draining: expected true or false, got {values['draining']!r}")
        return replace(self, **values)


def _mode(value: Any) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        raise InvalidRequest(f"mode: expected one of {', '.join(Mode)}, got {value!r}") from None
