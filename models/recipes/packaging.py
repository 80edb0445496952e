"""Writes a package: weights, table and manifest into NAME/VERSION/, all at once."""

from __future__ import annotations

import json
import platform
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.dense import dense_mlp, gated_encoder, gated_resnet, without_gates
from models.package import CALIBRATION, MANIFEST, WEIGHTS, Manifest, pin_file
from swan_runtime.budget import CalibrationTable
from swan_runtime.errors import CheckpointError

GATE_TENSOR = re.compile(r"\.gate\.|\.mean$")
RIVALS = {"DenseMLP": "dense_mlp", "GatedResNet": "dense_resnet", "GatedEncoder": "dense_encoder"}


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


def training_record(recipe: str, seed: int, **numbers: float) -> dict[str, str | float]:
    """How a package's weights came about, for its manifest and card. numbers: epochs and the like."""
    return {
        "command": f"python -m models.recipes.{recipe}",
        "seed": seed,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": processor_name(),
        "torch": torch.__version__,
        **numbers,
    }


def processor_name() -> str:
    """The CPU's name as Linux gives it, else the architecture."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return found.group(1).strip() if found else platform.machine()


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.state_dict())


def write_rival(path: Path, network: nn.Module) -> None:
    """Keep the weights of a dense network that the benchmark compares with; gates it may have are left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: v for name, v in network.state_dict().items() if not GATE_TENSOR.search(name)}
    header = {"network": RIVALS[type(network).__name__], "config": json.dumps(asdict(_config_of(network)))}
    save_file({name: value.detach().contiguous() for name, value in kept.items()}, path, header)


def read_network(path: Path) -> nn.Module:
    """The network that `write_rival` wrote; random gates where its class has some. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(path.name, "a file", "none")
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    builders: dict[str, Callable[..., nn.Module]] = {
        "dense_mlp": dense_mlp, "dense_resnet": gated_resnet, "dense_encoder": gated_encoder
    }  # fmt: skip
    if header.get("network") not in builders:
        raise CheckpointError(path.name, f"a rival: network one of {sorted(builders)}", str(header.get("network")))
    network = builders[header["network"]](**json.loads(header["config"]))
    missing, unknown = network.load_state_dict(state, strict=False)
    if unknown or any(not GATE_TENSOR.search(name) for name in missing):
        raise CheckpointError(path.name, f"the tensors of {header['network']}", str([*missing, *unknown][:1]))
    return network.eval()


def read_rival(path: Path) -> nn.Module:
    """What `write_rival` wrote, in the form that torch runs fastest. Raises CheckpointError for any other file."""
    return without_gates(read_network(path))


def _config_of(network: nn.Module) -> Any:
    return cast(Any, network).config
