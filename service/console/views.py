"""Models, answers and units as the plain JSON values that the page draws."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.interface import ModelSpec, ServableModel
from service.console.inputs import form_of
from service.types import InferResponse
from swan_runtime.budget import CalibrationTable
from swan_runtime.report import ComputeReport

MAX_CLASSES = 10
MAX_NUMBERS = 4096

Json = dict[str, Any]


def model_view(model: ServableModel) -> Json:
    spec, form = model.spec, form_of(model.spec)
    return {
        "name": spec.name,
        "version": spec.version,
        "platform": spec.platform,
        "description": spec.description,
        "input": {"kind": form.kind, "channels": form.channels, "height": form.height, "width": form.width},
        "curve": curve_view(model.table),
    }


def curve_view(table: CalibrationTable | None) -> Json | None:
    if table is None:
        return None
    points = [
        {
            "budget": point.budget,
            "macs": point.macs_mean,
            "activity": point.activity_mean,
            "quality": point.quality,
        }
        for point in table.points
    ]
    return {"metric": table.metric, "n": table.n, "macs_dense": table.macs_dense, "points": points}


def answer_view(spec: ModelSpec, response: InferResponse) -> Json:
    """Classes with confidences for a classifier, the vector of an embedder, else the outputs as they are."""
    first = np.asarray(response.outputs[0].array)
    view: Json = {"parameters": dict(response.parameters), "model_version": response.version}
    if spec.labels and first.shape[-1] == len(spec.labels):
        return view | {"classes": classes(first.reshape(-1), spec.labels)}
    if first.dtype.kind == "f" and first.ndim == 2 and 1 < first.size <= MAX_NUMBERS:
        return view | {"vector": [float(value) for value in first[0]]}
    return view | {"outputs": {item.name: _plain(np.asarray(item.array)) for item in response.outputs}}


def classes(scores: NDArray[Any], labels: tuple[str, ...]) -> list[Json]:
    """The best classes first. scores: [classes], logits or probabilities."""
    values = scores.astype(np.float64)
    best = np.argsort(-values, kind="stable")[:MAX_CLASSES]
    if np.any(values < 0) or abs(values.sum() - 1.0) > 1e-3:
        values = np.exp(values - values.max())
        values /= values.sum()
    return [{"label": labels[i], "confidence": float(values[i])} for i in best]


def layer_views(report: ComputeReport, fired: Mapping[str, NDArray[np.float32]]) -> list[Json]:
    """One entry a gated layer. fired: base64 of one byte a unit, 0 = skipped, 255 = ran in every mask."""
    return [
        {
            "name": layer.name,
            "units_active": layer.units_active,
            "units_total": layer.units_total,
            "kernel": layer.kernel,
            "fired": _bytes(fired[layer.name]) if layer.name in fired else None,
        }
        for layer in report.layers
    ]


def _bytes(shares: NDArray[np.float32]) -> str:
    """Rounded up, so that a unit that ran at all never looks skipped."""
    return base64.b64encode(np.ceil(np.clip(shares, 0.0, 1.0) * 255).astype(np.uint8).tobytes()).decode()


def _plain(array: NDArray[Any]) -> Any:
    flat = array.reshape(-1)[:MAX_NUMBERS].tolist()
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in flat]
