"""Model metadata and statistics in the protocol's JSON form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from models.interface import ModelSpec, TensorSpec
from service.statistics import Duration, Statistics


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
    """(model, version) -> counters, as Triton's model_stats. There is no response cache: its counts stay 0."""
    return {"model_stats": [_statistics(*key, one) for key, one in statistics.items()]}


def _statistics(name: str, version: str, one: Statistics) -> dict[str, Any]:
    durations = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    return {
        "name": name,
        "version": version,
        "last_inference": one.last_inference_ms,
        "inference_count": one.inference_count,
        "execution_count": one.execution_count,
        "inference_stats": {
            **{field: asdict(getattr(one, field)) for field in durations},
            "cache_hit": asdict(Duration()),
            "cache_miss": asdict(Duration()),
        },
        "batch_stats": [{"batch_size": size, **asdict(batch)} for size, batch in sorted(one.batches.items())],
    }
