"""Somebody's own data: .npz, .safetensors, .parquet or .jsonl files as the arrays that a model declares."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from models.interface import ModelSpec
from models.plain import NUMPY_TYPES
from swan_runtime.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class UserData:
    """inputs: name -> [n, ...] as the model declares them; labels: [n] class numbers, or None."""

    inputs: dict[str, NDArray[Any]]
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, rows: slice) -> UserData:
        return UserData(
            {name: value[rows] for name, value in self.inputs.items()},
            None if self.labels is None else self.labels[rows],
        )

    def halves(self) -> tuple[UserData, UserData]:
        if len(self) < 2:
            raise InvalidInputError("data", "at least 2 rows", str(len(self)))
        middle = len(self) // 2
        return self.take(slice(0, middle)), self.take(slice(middle, None))

    def parts(self, rows: int) -> list[UserData]:
        """Consecutive parts of at most `rows` rows."""
        return [self.take(slice(start, start + rows)) for start in range(0, len(self), rows)]


def read_columns(path: Path) -> dict[str, Any]:
    """Column name -> values of a .npz, .safetensors, .parquet or .jsonl file."""
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        ".npz": lambda p: dict(np.load(p, allow_pickle=False)),
        ".safetensors": lambda p: dict(load_file(p)),
        ".parquet": _read_parquet,
        ".jsonl": _read_jsonl,
    }
    if path.suffix not in readers:
        raise InvalidInputError("data", f"a file ending in {sorted(readers)}", path.name)
    if not path.is_file():
        raise InvalidInputError("data", "a file", str(path))
    try:
        return readers[path.suffix](path)
    except (ValueError, KeyError, OSError, SafetensorError, zipfile.BadZipFile) as error:
        raise InvalidInputError("data", f"a readable {path.suffix} file", f"{path.name}: {error}") from None


def read_data(path: Path, spec: ModelSpec) -> UserData:
    """One column per declared input and, if there is one, `labels`. Raises InvalidInputError."""
    columns = read_columns(path)
    inputs = {item.name: _column(columns, item.name, item.datatype, item.shape) for item in spec.inputs}
    lengths = {name: len(value) for name, value in inputs.items()}
    labels = labels_of(columns)
    if labels is not None:
        lengths["labels"] = len(labels)
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise InvalidInputError("data", "columns of one length, at least 1", str(lengths))
    return UserData(inputs, labels)


def labels_of(columns: Mapping[str, Any]) -> NDArray[np.int64] | None:
    """The column `labels` as class numbers [n], if there is one."""
    if "labels" not in columns:
        return None
    labels = np.asarray(columns["labels"])
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InvalidInputError("labels", "class numbers [n]", f"{labels.dtype} {list(labels.shape)}")
    return labels.astype(np.int64)


def _column(columns: dict[str, Any], name: str, datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if name not in columns:
        raise InvalidInputError("data", f"a column {name}", str(sorted(columns)))
    if datatype == "BYTES":
        texts = [value.encode() if isinstance(value, str) else value for value in columns[name]]
        return np.array(texts, dtype=np.object_).reshape(-1, *shape)
    try:
        array = np.asarray(columns[name], dtype=NUMPY_TYPES[datatype])
        return array.reshape(len(array), *shape)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(name, f"{datatype} of shape [n, {', '.join(map(str, shape))}]", str(error)) from None


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
