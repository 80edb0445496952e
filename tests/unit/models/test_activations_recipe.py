"""The comparison of activations: every variant is trained, what is done stays done, the table says what was run."""

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from models.data import fashion
from models.recipes import activations
from models.recipes.activations import VARIANTS, Run, Short, table_of


@pytest.fixture(autouse=True)
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training split is a download: shipped test images take its place."""
    images = fashion.test_images()
    parts = images.take(slice(0, 300)), images.take(slice(300, 420))
    monkeypatch.setattr(fashion, "train_and_calibration", lambda folder, say: parts)


def test_the_table_shows_means_and_how_far_the_seeds_lie_apart() -> None:
    runs = [
        Run("ReLU", 0, 0.90, {"1": 0.91, "0.4": 0.90, "0.2": 0.88}, 0.02),
        Run("ReLU", 1, 0.92, {"1": 0.91, "0.4": 0.88, "0.2": 0.87}, 0.04),
        Run("ACON-C", 0, 0.93, {"1": 0.92, "0.4": 0.91, "0.2": 0.90}, 0.01),
    ]
    lines = table_of(runs, Short(1000, 3, 2))
    assert "1,000 images, 3 epochs dense, then 2 gated; 2 seeds" in lines[0]
    assert "| ReLU | 91.00 (2.00) | 91.00 (0.00) | 89.00 (2.00) | 87.50 (1.00) | 3.0 |" in lines
    assert lines[-1].startswith("| ACON-C | 93.00 (0.00)")  # variants that were not run have no row


@pytest.mark.slow
def test_every_variant_is_trained_and_a_second_call_goes_on(tmp_path: Path) -> None:
    app = Typer(add_completion=False)
    app.command()(activations.main)
    out = tmp_path / "runs.json"
    short = ["--images", "256", "--dense-epochs", "1", "--epochs", "1", "--seeds", "1", "--test-images", "200"]
    done = CliRunner().invoke(app, [*short, "--out", str(out)])
    assert done.exit_code == 0, done.output
    runs = json.loads(out.read_text())["runs"]
    assert [run["variant"] for run in runs] == list(VARIANTS)
    assert all(0.0 <= value <= 1.0 for run in runs for value in run["accuracy"].values())
    written = out.read_text()
    again = CliRunner().invoke(app, [*short, "--out", str(out)])
    assert again.exit_code == 0 and "epoch 1/" not in again.output
    assert out.read_text() == written
    assert "meta-ACON, batch shaping" in out.with_suffix(".md").read_text()
