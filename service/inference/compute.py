"""What an answer says about its own cost: the response parameters and the Server-Timing header."""

from __future__ import annotations

from collections.abc import Mapping

from service.types import Completion, ParameterValue


def compute_parameters(completion: Completion) -> dict[str, ParameterValue]:
    """MACs are sums over the request's rows, activity is their mean; times in microseconds."""
    parameters: dict[str, ParameterValue] = {
        "quality_budget": completion.budget,
        "quality_activity": completion.activity,
        "quality_limited_by": completion.limited_by.value,
        "compute_macs": completion.macs,
        "compute_macs_dense": completion.macs_dense,
        "queue_us": round(completion.queue_s * 1e6),
        "compute_us": round(completion.compute_s * 1e6),
        "batch_size": completion.batch_size,
        "deadline_met": completion.deadline_met,
    }
    if completion.quality_expected is not None:
        parameters["quality_expected"] = completion.quality_expected
    return parameters


def server_timing(parameters: Mapping[str, ParameterValue]) -> str:
    """Server-Timing (W3C), in milliseconds."""
    queue_us, compute_us = parameters["queue_us"], parameters["compute_us"]
    return f"queue;dur={int(queue_us) / 1000:.3f}, infer;dur={int(compute_us) / 1000:.3f}"
