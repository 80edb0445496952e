"""The package format: what loads, and what is refused with which error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.errors import NewerFormat, PackageError, PackageNotFound, WrongHash
from models.package import pin_file, read_package
from models.plain import PlainModel
from models.registry import find_package, find_packages, load_package
from swan_runtime.errors import CheckpointError, InvalidInputError

REPOSITORY = Path(__file__).parents[3] / "benchmarks" / "packages"


class Doubler(nn.Module):
    """[B, width] -> ([B, width], [B, 1]): a linear layer and the row's sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.linear(x), x.sum(1, keepdim=True)


def lies_about_rows(inputs: Any) -> dict[str, Any]:
    return {"Y": inputs["X"][:1], "SUM": inputs["X"][:1]}


def manifest(**changes: Any) -> dict[str, Any]:
    base = {
        "format_version": 1,
        "name": "doubler",
        "family": "import",
        "import_path": f"{__name__}:Doubler",
        "config": {"width": 3},
        "description": "a test model",
        "licence": "Apache-2.0",
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [3]}],
        "outputs": [
            {"name": "Y", "datatype": "FP32", "shape": [3]},
            {"name": "SUM", "datatype": "FP32", "shape": [1]},
        ],
        "max_batch_size": 8,
        "default_deadline_s": 0.1,
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def _write(version: str = "1", weight: torch.Tensor | None = None, **changes: Any) -> Path:
        folder = tmp_path / changes.get("folder", "doubler") / version
        changes.pop("folder", None)
        folder.mkdir(parents=True)
        save_file({"linear.weight": torch.eye(3) * 2 if weight is None else weight}, folder / "weights.safetensors")
        pin = pin_file(folder / "weights.safetensors")
        changes.setdefault("weights", {"file": pin.file, "sha256": pin.sha256})
        (folder / "model.json").write_text(json.dumps(manifest(**changes)))
        return folder

    return _write


def test_torch_module_by_import_path(write: Callable[..., Path]) -> None:
    model = load_package(write())
    model.warm_up()
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    answer = model.infer({"X": x}, np.ones(2))
    np.testing.assert_allclose(answer.outputs["Y"], 2 * x)
    np.testing.assert_allclose(answer.outputs["SUM"], x.sum(1, keepdims=True))
    assert [report.macs for report in answer.reports] == [9, 9]
    assert model.table is None and model.spec.version == "1"


def test_identity_package_serves_rows_of_any_length() -> None:
    model = load_package(REPOSITORY / "identity" / "1")
    x = np.random.default_rng(0).random((4, 7), dtype=np.float32)
    np.testing.assert_array_equal(model.infer({"INPUT": x}, np.ones(4)).outputs["OUTPUT"], x)
    assert model.example(3)["INPUT"].shape == (3, 1)


def test_newest_version_wins_by_number(write: Callable[..., Path], tmp_path: Path) -> None:
    for version in ("2", "10", "9"):
        write(version)
    assert find_package(tmp_path, "doubler").name == "10"
    assert find_package(tmp_path, "doubler", "9").name == "9"
    assert [path.name for path in find_packages(tmp_path)] == ["2", "9", "10"]


@pytest.mark.parametrize(
    ("name", "version"), [("nobody", ""), ("doubler", "7"), ("..", ""), ("a/b", ""), ("x" * 129, "")]
)
def test_unknown_models_are_not_found(
    write: Callable[..., Path], tmp_path: Path, name: str, version: str
) -> None:  # fmt: skip
    write()
    with pytest.raises(PackageNotFound):
        find_package(tmp_path, name, version)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"surprise": 1}, "model.json"),
        ({"licence": None}, "model.json"),
        ({"max_batch_size": 0}, "model.json.max_batch_size"),
        ({"inputs": []}, "model.json.inputs"),
        ({"inputs": [{"name": "X", "datatype": "FP31", "shape": [3]}]}, "model.json.inputs[0].datatype"),
        ({"weights": {"file": "../weights.safetensors", "sha256": "0" * 64}}, "model.json.weights.file"),
        ({"import_path": None}, "import_path"),
        ({"import_path": "no.such.module:thing"}, "import_path"),
        ({"import_path": "models.package:FORMAT_VERSION"}, "import_path"),
        ({"family": "nobodys", "import_path": None}, "family"),
        ({"name": "someone-else"}, "name"),
    ],
)
def test_bad_manifests_name_the_field(write: Callable[..., Path], changes: dict[str, Any], field: str) -> None:
    with pytest.raises(PackageError) as raised:
        load_package(write(**changes))
    assert raised.value.field == field


def test_newer_format_is_told_apart(write: Callable[..., Path]) -> None:
    with pytest.raises(NewerFormat, match="at most 1, got 2"):
        read_package(write(format_version=2))


def test_changed_weights_are_refused(write: Callable[..., Path]) -> None:
    folder = write()
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WrongHash, match=r"weights\.safetensors: expected sha256"):
        load_package(folder)


def test_weights_of_another_shape_are_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError):
        load_package(write(weight=torch.eye(4)))


def test_missing_files_and_folders(write: Callable[..., Path], tmp_path: Path) -> None:
    folder = write()
    (folder / "weights.safetensors").unlink()
    with pytest.raises(PackageError, match="package"):
        read_package(folder)
    with pytest.raises(PackageError, match="version"):
        read_package(tmp_path)
    (tmp_path / "empty" / "1").mkdir(parents=True)
    with pytest.raises(PackageError, match=r"model\.json"):
        read_package(tmp_path / "empty" / "1")
    (tmp_path / "empty" / "1" / "model.json").write_text("{")
    with pytest.raises(PackageError, match="valid JSON"):
        read_package(tmp_path / "empty" / "1")
    with pytest.raises(PackageError, match="repository"):
        list(find_packages(tmp_path / "nowhere"))


def test_outputs_must_be_the_declared_ones(write: Callable[..., Path]) -> None:
    x = {"X": np.zeros((2, 3), dtype=np.float32)}
    model = load_package(write(import_path=f"{__name__}:lies_about_rows"))
    assert isinstance(model, PlainModel)
    with pytest.raises(InvalidInputError, match="2 rows of FP32"):
        model.infer(x, np.ones(2))
    outputs = [{"name": "OTHER", "datatype": "FP32", "shape": [3]}]
    other = load_package(write("2", import_path="benchmarks.identity:identity", outputs=outputs,
                               inputs=[{"name": "INPUT", "datatype": "FP32", "shape": [3]}]))  # fmt: skip
    with pytest.raises(InvalidInputError, match="output OTHER"):
        other.infer({"INPUT": x["X"]}, np.ones(2))
