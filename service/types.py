"""Values that cross the service's inner borders. Everything here is data; nothing imports a sibling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from swan_runtime.report import ComputeReport

Arrays = Mapping[str, NDArray[Any]]
ParameterValue = bool | int | float | str


class DeadlinePolicy(StrEnum):
    """What to do when the deadline cannot be met at the wanted quality."""

    DEGRADE = "degrade"  # lower the budget down to the floor, refuse below it
    REJECT = "reject"  # refuse rather than lower the budget
    BEST_EFFORT = "best_effort"  # lower the budget down to the floor, then answer late rather than never


class LimitedBy(StrEnum):
    """Why the budget of an answer is below 1."""

    NONE = "none"
    LOAD = "load"
    REQUEST = "request"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Quality:
    """The budgets a request accepts: `minimum` <= budget <= `maximum`; equal for a pinned request."""

    minimum: float = 0.0
    maximum: float = 1.0

    @property
    def pinned(self) -> bool:
        return self.minimum == self.maximum


class Haste(NamedTuple):
    """A request's time, before it is read. timeout_s: None = the model's default; age_s: since it came."""

    timeout_s: float | None
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Contract:
    """How a request wants to be scheduled.

    timeout_s: relative deadline in seconds, None = the model's default. priority: 1 highest, 0 = default class.
    tenant: who pays for the MACs ("" when tenants are not told apart).
    """

    timeout_s: float | None = None
    priority: int = 0
    quality: Quality = field(default_factory=Quality)
    deadline_policy: DeadlinePolicy = DeadlinePolicy.DEGRADE
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """One admitted-or-not request as the scheduler sees it: decoded, validated, `rows` rows of one model version.

    arrival_s: monotonic clock when the first byte was seen; the deadline counts from here.
    """

    model: str
    version: str
    inputs: Arrays
    rows: int
    contract: Contract
    arrival_s: float
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """The scheduler's answer. outputs: name -> [rows, ...]; one report per row; times in seconds.

    macs: executed for the whole request, gates included; macs_dense: what the model without gates would have executed.
    activity: measured share of gated units that ran, MAC-weighted over rows and layers; 1.0 without gates.
    """

    outputs: Arrays
    reports: tuple[ComputeReport, ...]
    budget: float
    limited_by: LimitedBy
    quality_expected: float | None
    queue_s: float
    compute_s: float
    batch_size: int
    deadline_met: bool
    macs: int = field(init=False)
    macs_dense: int = field(init=False)
    activity: float = field(init=False)

    def __post_init__(self) -> None:
        reports = self.reports
        layers = [layer for report in reports for layer in report.layers]
        dense = sum([layer.macs_dense for layer in layers])
        active = sum([layer.activity * layer.macs_dense for layer in layers]) / dense if dense else 1.0
        # once, because answer, metrics and log each ask for them
        object.__setattr__(self, "macs", sum([report.macs for report in reports]))
        object.__setattr__(self, "macs_dense", sum([report.macs_dense for report in reports]))
        object.__setattr__(self, "activity", active)


@dataclass(frozen=True, slots=True)
class OutputRequest:
    """One output a client asked for. classification: 0 = the tensor itself, k = its k best classes."""

    name: str
    classification: int = 0
    binary: bool | None = None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A decoded request, protocol-free. inputs still carry the client's shapes, batch dimension included.

    outputs: empty = all of the model's; binary_outputs: what an output without a wish of its own becomes.
    parameters: the client's own, beyond those that the contract holds.
    """

    model: str
    version: str
    id: str
    inputs: Arrays
    datatypes: Mapping[str, str]
    outputs: tuple[OutputRequest, ...]
    parameters: Mapping[str, ParameterValue]
    contract: Contract
    arrival_s: float
    binary_outputs: bool = True
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class OutputTensor:
    name: str
    datatype: str
    array: NDArray[np.generic] | NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class InferResponse:
    """What the encoders turn into bytes; parameters carry the compute and quality of the answer."""

    model: str
    version: str
    id: str
    outputs: tuple[OutputTensor, ...]
    parameters: Mapping[str, ParameterValue]
