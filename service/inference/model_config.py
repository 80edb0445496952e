"""Triton's ModelConfig, derived from what a model declares: there is no config.pbtxt to keep in step."""

from __future__ import annotations

from typing import Any

from models.interface import ServableModel, TensorSpec

_PRIORITY_LEVELS = 3
_DEFAULT_PRIORITY = 2


def model_config(model: ServableModel) -> dict[str, Any]:
    """ModelConfig as JSON with the names of model_config.proto; dims are per row, as there."""
    spec = model.spec
    return {
        "name": spec.name,
        "platform": spec.platform,
        "backend": spec.platform,
        "max_batch_size": spec.max_batch_size,
        "input": [{**_tensor(tensor), "is_shape_tensor": False, "optional": False} for tensor in spec.inputs],
        "output": [{**_tensor(tensor), "label_filename": "", "is_shape_tensor": False} for tensor in spec.outputs],
        "dynamic_batching": {
            "priority_levels": _PRIORITY_LEVELS,
            "default_priority_level": _DEFAULT_PRIORITY,
        },
        "model_transaction_policy": {"decoupled": False},
        "response_cache": {"enable": False},
        "parameters": {name: {"string_value": value} for name, value in _parameters(model).items()},
    }


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    kind = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    return {"name": tensor.name, "data_type": f"TYPE_{kind}", "dims": list(tensor.shape)}


def _parameters(model: ServableModel) -> dict[str, str]:
    spec, table = model.spec, model.table
    found = {"default_deadline_us": str(round(spec.default_deadline_s * 1e6)), "description": spec.description}
    if table is not None:
        found["quality_metric"] = table.metric
        found["quality_budgets"] = ",".join(f"{point.budget:g}" for point in table.points)
        found["quality_expected"] = ",".join(f"{point.quality:.6g}" for point in table.points)
        found["quality_activity"] = ",".join(f"{point.activity_mean:.4g}" for point in table.points)
        found["compute_macs"] = ",".join(f"{point.macs_mean:.6g}" for point in table.points)
        found["compute_macs_dense"] = f"{table.macs_dense:.6g}"
    return found
