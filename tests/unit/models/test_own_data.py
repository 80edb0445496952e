"""`swan models`, `swan calibrate` and `swan compact` on somebody's own data."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from typer.testing import CliRunner

from models.calibration import load_gated, recalibrate, with_table
from models.data import fashion
from models.data.descriptions import SPLITS, sample_descriptions
from models.errors import PackageError
from models.registry import find_package, load_package, shipped_repository
from models.user_data import read_data
from service.cli import app
from swan_runtime.errors import InvalidInputError

MLP = find_package(shipped_repository(), "fashion-mlp")
IMAGES = fashion.test_images().take(slice(0, 200))


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    np.savez(path, INPUT=IMAGES.scaled(), labels=IMAGES.labels)
    return path


def test_recalibrated_package_loads_and_has_the_new_curve(npz: Path, tmp_path: Path) -> None:
    table = recalibrate(MLP, read_data(npz, load_package(MLP).spec))
    assert table.metric == "accuracy" and table.n == 200
    target = tmp_path / "fashion-mlp" / "1"
    shutil.copytree(MLP, target)
    with_table(target, table)
    assert load_package(target).table == table


def test_without_labels_quality_is_agreement_with_full(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_file({"INPUT": IMAGES.scaled()}, path)
    table = recalibrate(MLP, read_data(path, load_package(MLP).spec))
    assert table.metric == "agreement" and table.points[-1].quality == 1.0 and table.points[0].quality < 1.0


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_and_columns_read_the_same(npz: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine.{suffix}"
    columns = {"INPUT": IMAGES.scaled()[:3].tolist(), "labels": IMAGES.labels[:3].tolist()}
    if suffix == "jsonl":
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(arrow.table(columns), path)
    data = read_data(path, load_package(MLP).spec)
    np.testing.assert_array_equal(data.inputs["INPUT"], IMAGES.scaled()[:3])
    assert data.labels is not None and data.labels.tolist() == columns["labels"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": IMAGES.scaled()}, "a column INPUT"),
        ({"INPUT": IMAGES.scaled(), "labels": IMAGES.labels[:5]}, "one length"),
    ],
)
def test_unfit_data_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    with pytest.raises(InvalidInputError, match=message):
        read_data(path, load_package(MLP).spec)
    with pytest.raises(InvalidInputError, match="a file ending in"):
        read_data(tmp_path / "mine.csv", load_package(MLP).spec)


def test_compact_runs_on_torch_alone_and_agrees_with_full(npz: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    out = tmp_path / "small.pt2"
    done = runner.invoke(app, ["compact", "fashion-mlp", "--budget", "0.1", "--data", str(npz), "--out", str(out)])
    assert done.exit_code == 0, done.output
    module = torch.export.load(out).module()
    logits = module(torch.from_numpy(IMAGES.scaled()[:50]))
    assert float((logits.argmax(1).numpy() == IMAGES.labels[:50]).mean()) > 0.8


def test_only_gated_models_can_be_compacted() -> None:
    identity = Path(__file__).parents[3] / "benchmarks" / "packages" / "identity" / "1"
    with pytest.raises(PackageError, match="a gated model"):
        load_gated(identity)


def test_models_are_listed_with_their_curves(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["models"])
    assert shown.exit_code == 0 and "fashion-mlp" in shown.output and "accuracy on 5000" in shown.output
    assert CliRunner().invoke(app, ["models", "--repository", str(tmp_path / "no")]).exit_code == 2


def test_calibrate_command_writes_a_package(npz: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["calibrate", "fashion-mlp", "--data", str(npz), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    renewed = load_package(tmp_path / "fashion-mlp" / "1").table
    assert renewed is not None and renewed.n == 200


def test_shipped_descriptions_share_no_source_between_splits() -> None:
    sources = [{row.source for row in sample_descriptions(split)} for split in SPLITS]
    assert [len(part) for part in sources] == [2500, 500, 1500]
    assert not (sources[0] & sources[1] | sources[0] & sources[2] | sources[1] & sources[2])
    with pytest.raises(ValueError, match="split"):
        sample_descriptions("dev")
