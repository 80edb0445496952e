"""A package's curve on somebody's own data: thresholds, activity, MACs and quality of every budget, measured anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.errors import PackageError
from models.gated import GatedServable
from models.package import CALIBRATION, MANIFEST, parse_manifest, pin_file
from models.registry import load_package
from models.user_data import UserData
from swan_runtime.budget import CalibrationTable
from swan_runtime.calibrate import CalibrationConfig, Inputs, calibrate

BATCH_ROWS = 64


def recalibrate(path: Path, data: UserData) -> CalibrationTable:
    """The package's curve on `data`; without labels, quality is agreement with the full-budget output."""
    model = load_gated(path)
    batches = batches_of(model, data)
    with torch.inference_mode():
        full = torch.cat([model.runtime.model(*inputs, plan=None) for inputs in batches])
    name, measure = metric_of(full, data.labels, bool(model.spec.labels))
    old = model.runtime.table
    config = CalibrationConfig(old.model, name, tuple(b for b in old.budgets if b < 1.0))
    return calibrate(model.runtime.model, batches, measure, config)


def metric_of(
    full: Tensor, labels: NDArray[np.int64] | None, classifies: bool
) -> tuple[str, Callable[[Tensor], float]]:
    """(name, measure of all outputs): accuracy with labels; else the same class, or mean cosine, as `full`."""
    if labels is not None:
        wanted = torch.from_numpy(labels)
        return "accuracy", lambda outputs: float((outputs.argmax(-1) == wanted).float().mean())
    if classifies:
        return "agreement", lambda outputs: float((outputs.argmax(-1) == full.argmax(-1)).float().mean())
    return "cosine", lambda outputs: float(torch.cosine_similarity(outputs.flatten(1), full.flatten(1)).mean())


def with_table(path: Path, table: CalibrationTable) -> None:
    """Replace the calibration of the package at `path`, hash included."""
    manifest = parse_manifest(path / MANIFEST)
    table.save(path / CALIBRATION)
    renewed = replace(manifest, calibration=pin_file(path / CALIBRATION))
    (path / MANIFEST).write_text(renewed.to_json(), encoding="utf-8")


def load_gated(path: Path) -> GatedServable:
    """The package at `path`. Raises PackageError if it has no gates."""
    model = load_package(path)
    if not isinstance(model, GatedServable):
        raise PackageError("family", "a gated model", path.parent.name)
    return model


def batches_of(model: GatedServable, data: UserData) -> list[Inputs]:
    return [model.codec.encode(part.inputs) for part in data.parts(BATCH_ROWS)]
