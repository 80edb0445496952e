"""A package on somebody's own data: measure its curve anew, or export it as a plain dense model for one budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor

from models.data.descriptions import sample_descriptions
from models.data.fashion import test_images
from models.dense import swap_gated
from models.errors import PackageError
from models.gated import GatedServable
from models.interface import ModelSpec
from models.recipes.text_quality import text_batches
from models.registry import load_package
from models.text import TextCodec
from swan_runtime.bind import GatedModel
from swan_runtime.budget import CalibrationTable
from swan_runtime.calibrate import CalibrationConfig, Inputs, calibrate
from swan_runtime.compact import Compacted, compact, compact_layers
from swan_runtime.errors import InvalidInputError

BATCH_ROWS = 64
SAMPLE_IMAGES = 3000
"""A unit that never fired in 3,000 images fires in at most 0.1 % of them (95 %)."""
SAMPLE_TEXTS = 96
"""About 9,000 tokens, each with its own mask."""


@dataclass(frozen=True, slots=True)
class UserData:
    """inputs: name -> [n, ...] as the model declares them; labels: [n] class numbers, or None."""

    inputs: dict[str, NDArray[Any]]
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


def read_data(path: Path, spec: ModelSpec) -> UserData:
    """Read .npz, .safetensors, .parquet or .jsonl: one column per declared input and, if there is one, `labels`."""
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        ".npz": lambda p: dict(np.load(p, allow_pickle=False)),
        ".safetensors": lambda p: dict(load_file(p)),
        ".parquet": _read_parquet,
        ".jsonl": _read_jsonl,
    }
    if path.suffix not in readers:
        raise InvalidInputError("data", f"a file ending in {sorted(readers)}", path.name)
    columns = readers[path.suffix](path)
    inputs = {item.name: _column(columns, item.name, item.datatype, item.shape) for item in spec.inputs}
    lengths = {name: len(value) for name, value in inputs.items()}
    labels = columns.get("labels")
    if labels is not None:
        lengths["labels"] = len(labels)
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise InvalidInputError("data", "columns of one length, at least 1", str(lengths))
    return UserData(inputs, None if labels is None else np.asarray(labels, dtype=np.int64))


def recalibrate(path: Path, data: UserData) -> CalibrationTable:
    """The package's curve on `data`; without labels, quality is agreement with the full-budget output."""
    model, old = _gated(path)
    batches = _batches(model, data)
    name, metric = quality_of(model, batches, data.labels)
    config = CalibrationConfig(old.model, name, tuple(b for b in old.budgets if b < 1.0))
    return calibrate(model.runtime.model, batches, metric, config)


def sample_inputs(model: GatedServable) -> list[Inputs]:
    """Shipped inputs that decide which units an export needs: no part of what the benchmark tests on, where possible.

    Images: the shipped test images, since no others ship; texts: the calibration split of the descriptions.
    """
    if isinstance(model.codec, TextCodec):
        return text_batches(model.codec, [row.long for row in sample_descriptions("calibration")[:SAMPLE_TEXTS]])
    return _batches(model, UserData({model.spec.inputs[0].name: test_images().scaled[-SAMPLE_IMAGES:]}, None))


def compact_network(model: GatedServable, budget: float, inputs: Sequence[Inputs], min_rate: float = 0.0) -> Compacted:
    """A plain dense module at `budget`; `inputs` decide which units are needed.

    min_rate: units that run for at most this share of the inputs are dropped; 0 = only those that never run.
    The module takes the network's own arguments: (lengths, ids) for texts; PaddedEncoder.around makes it exportable.
    """
    network, table = model.runtime.model, model.runtime.table
    if isinstance(network, GatedModel):
        return compact(network, budget, table, inputs, min_rate)
    blocks, layers = compact_layers(network, budget, table, inputs, min_rate)
    return Compacted(swap_gated(network, blocks), budget, layers)


def compact_package(path: Path, budget: float, data: UserData, min_rate: float = 0.0) -> Compacted:
    """`compact_network` of the package at `path` on somebody's own data."""
    model, _ = _gated(path)
    return compact_network(model, budget, _batches(model, data), min_rate)


def quality_of(
    model: GatedServable, batches: list[Inputs], labels: NDArray[np.int64] | None
) -> tuple[str, Callable[[Tensor], float]]:
    """(name, measure of all outputs): accuracy with labels; else the same class, or mean cosine, as at full budget."""
    if labels is not None:
        wanted = torch.from_numpy(labels)
        return "accuracy", lambda outputs: float((outputs.argmax(-1) == wanted).float().mean())
    with torch.inference_mode():
        full = torch.cat([model.runtime.model(*inputs, plan=None) for inputs in batches])
    if model.spec.labels:
        return "agreement", lambda outputs: float((outputs.argmax(-1) == full.argmax(-1)).float().mean())
    return "cosine", lambda outputs: float(torch.cosine_similarity(outputs, full).mean())


def with_table(path: Path, table: CalibrationTable) -> None:
    """Replace the calibration of the package at `path`, hash included."""
    from models.package import CALIBRATION, MANIFEST, parse_manifest, pin_file

    manifest = parse_manifest(path / MANIFEST)
    table.save(path / CALIBRATION)
    renewed = replace(manifest, calibration=pin_file(path / CALIBRATION))
    (path / MANIFEST).write_text(renewed.to_json(), encoding="utf-8")


def _gated(path: Path) -> tuple[GatedServable, CalibrationTable]:
    model = load_package(path)
    if not isinstance(model, GatedServable) or model.table is None:
        raise PackageError("family", "a gated model", path.parent.name)
    return model, model.table


def _batches(model: GatedServable, data: UserData) -> list[Inputs]:
    starts = range(0, len(data), BATCH_ROWS)
    return [
        model.codec.encode({name: value[i : i + BATCH_ROWS] for name, value in data.inputs.items()}) for i in starts
    ]


def _column(columns: dict[str, Any], name: str, datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if name not in columns:
        raise InvalidInputError("data", f"a column {name}", str(sorted(columns)))
    if datatype == "BYTES":
        texts = [value.encode() if isinstance(value, str) else value for value in columns[name]]
        return np.array(texts, dtype=np.object_).reshape(-1, *shape)
    array = np.asarray(columns[name], dtype=np.float32)
    return array.reshape(len(array), *shape)


def _read_jsonl(path: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}


def _read_parquet(path: Path) -> dict[str, Any]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise InvalidInputError(
            "data", "pyarrow for parquet files (pip install 'swan-serve[parquet]')", "none"
        ) from None
    return dict(parquet.read_table(path).to_pydict())
