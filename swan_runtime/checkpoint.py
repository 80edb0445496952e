"""Weights as safetensors plus a JSON header with a format version; and the fingerprint that ties tables to weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from swan_runtime.errors import CheckpointError

FORMAT_VERSION = 1


def fingerprint(model: nn.Module) -> str:
    """sha256 over names, types, shapes and bytes of the state_dict, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}\n".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save(model: nn.Module, directory: Path, config: dict[str, Any] | None = None) -> None:
    """Write weights.safetensors and checkpoint.json. config: JSON values that rebuild the module, kept as given."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, directory / "weights.safetensors")
    header = {"format_version": FORMAT_VERSION, "fingerprint": fingerprint(model), "config": config or {}}
    (directory / "checkpoint.json").write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")


def read_header(directory: Path) -> dict[str, Any]:
    """The checked JSON header: format_version, fingerprint, config. Raises CheckpointError."""
    path = directory / "checkpoint.json"
    if not path.is_file():
        raise CheckpointError("checkpoint.json", "a file", "none")
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError("checkpoint.json", "valid JSON", str(error)) from None
    expected = {"format_version", "fingerprint", "config"}
    if not isinstance(header, dict) or not expected <= set(header):
        raise CheckpointError("checkpoint.json", f"keys {sorted(expected)}", type(header).__name__)
    version = header["format_version"]
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise CheckpointError("format_version", f"1 to {FORMAT_VERSION}", repr(version))
    return header


def load_(model: nn.Module, directory: Path) -> nn.Module:
    """Read the weights into `model`. Raises CheckpointError if they are missing, corrupt or another model's."""
    header = read_header(directory)
    load_weights_(model, directory / "weights.safetensors")
    if (got := fingerprint(model)) != header["fingerprint"]:
        raise CheckpointError("fingerprint", str(header["fingerprint"])[:12], got[:12])
    return model


def load_weights_(model: nn.Module, path: Path) -> nn.Module:
    """Read one safetensors file into `model`: same names, shapes and types, nothing missing, nothing extra."""
    if not path.is_file():
        raise CheckpointError(path.name, "a file", "none")
    try:
        state: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(path.name, "a readable safetensors file", str(error)) from None
    wanted = model.state_dict()
    if missing := sorted(set(wanted) - set(state)):
        raise CheckpointError(missing[0], "a tensor", "none")
    if unknown := sorted(set(state) - set(wanted)):
        raise CheckpointError(unknown[0], "no such tensor in this model", str(tuple(state[unknown[0]].shape)))
    for name, tensor in wanted.items():
        if (tensor.shape, tensor.dtype) != (state[name].shape, state[name].dtype):
            expected = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise CheckpointError(name, expected, f"{state[name].dtype} {tuple(state[name].shape)}")
    model.load_state_dict(state)
    return model
