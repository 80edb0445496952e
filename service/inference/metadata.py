"""Model metadata and statistics in the protocol's JSON form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models.interface import ModelSpec, TensorSpec
from service.inference.statistics import Duration, Statistics


def model_metadata(spec: ModelSpec, versions: Sequence[str]) -> dict[str, Any]:
    """Shapes include the batch dimension as -1."""
    return {
        "name": spec.name,
        "versions": list(versions),
        "platform": spec.platform,
        "inputs": [_tensor(tensor) for tensor in spec.inputs],
        "outputs": [_tensor(tensor) for tensor in spec.outputs],
    }


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": [-1, *tensor.shape]}


def statistics_json(statistics: Mapping[tuple[str, str], Statistics]) -> dict[str, Any]:
    """(model, version) -> counters, as Triton's model_stats. There is no response cache: its counts stay 0.

    compute_input holds all overhead of a request, compute_output only its count.
    """
    return {"model_stats": [_statistics(*key, one) for key, one in statistics.items()]}


def _statistics(name: str, version: str, one: Statistics) -> dict[str, Any]:
    never = Duration().as_json()
    return {
        "name": name,
        "version": version,
        "last_inference": one.last_inference_ms,
        "inference_count": one.inference_count,
        "execution_count": one.execution_count,
        "inference_stats": {
            "success": one.success.as_json(),
            "fail": one.fail.as_json(),
            "queue": one.queue.as_json(),
            "compute_input": one.overhead.as_json(),
            "compute_infer": one.compute_infer.as_json(),
            "compute_output": {**never, "count": round(one.success.count)},
            "cache_hit": never,
            "cache_miss": never,
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": {**never, "count": round(duration.count)},
                "compute_infer": duration.as_json(),
                "compute_output": {**never, "count": round(duration.count)},
            }
            for size, duration in sorted(one.batches.items())
        ],
    }
