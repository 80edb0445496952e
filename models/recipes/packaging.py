"""Writes a package: weights, table and manifest into NAME/VERSION/, all at once."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from models.package import CALIBRATION, MANIFEST, WEIGHTS, Manifest, pin_file
from swan_runtime.budget import CalibrationTable


def write_package(
    repository: Path, version: str, manifest: Manifest, tensors: dict[str, Tensor], table: CalibrationTable
) -> Path:
    """Write or replace NAME/VERSION/ in `repository`; a card that lies there stays. Returns the folder."""
    folder = repository / manifest.name / version
    scratch = folder.with_name(f"{version}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(folder, scratch) if folder.exists() else scratch.mkdir(parents=True)
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, scratch / WEIGHTS)
    table.save(scratch / CALIBRATION)
    pinned = replace(manifest, weights=pin_file(scratch / WEIGHTS), calibration=pin_file(scratch / CALIBRATION))
    (scratch / MANIFEST).write_text(pinned.to_json(), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)  # NOTE: a killed recipe leaves the old package or the new one
    return folder


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.state_dict())


def write_rival(path: Path, network: nn.Module) -> None:
    """Keep the weights of a dense network that the benchmark compares with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().contiguous() for name, value in network.state_dict().items()}, path)
