"""Each recipe's quick path, on shipped pictures in place of the downloaded ones; rivals; static pruning."""

from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from models.data import fashion
from models.gated_encoder import GatedEncoder, GatedEncoderConfig
from models.recipes import fashion_mlp, fashion_resnet, rivals
from models.recipes.packaging import read_rival
from models.recipes.static_encoder import pruned, unit_energies
from models.registry import load_package
from swan_runtime.calibrate import set_means_


@pytest.fixture(autouse=True)
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training split is a download: shipped test images take its place."""
    images = fashion.test_images()
    parts = images.take(slice(0, 300)), images.take(slice(300, 420))
    monkeypatch.setattr(fashion, "train_and_calibration", lambda folder, say: parts)


def invoke(command: object, *arguments: object) -> str:
    app = typer.Typer(add_completion=False)
    app.command()(command)  # type: ignore[type-var]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [fashion_mlp, fashion_resnet], ids=["mlp", "resnet"])
def test_a_recipe_writes_a_package_that_serves(recipe: object, tmp_path: Path) -> None:
    name = recipe.NAME  # type: ignore[attr-defined]
    invoke(recipe.main, "--quick", "--out", tmp_path, "--work", tmp_path / "work")  # type: ignore[attr-defined]
    model = load_package(tmp_path / name / "1")
    assert model.table is not None and model.table.metric == "accuracy"
    answer = model.infer(model.example(3), np.full(3, 0.5))
    assert answer.outputs["PROBABILITIES"].shape == (3, 10)
    assert all(report.macs < report.macs_dense for report in answer.reports)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("fashion-mlp", 24), ("fashion-resnet", 10)])
def test_rivals_are_written_where_the_benchmark_looks(name: str, size: int, tmp_path: Path) -> None:
    options = [name, "--quick", "--out", tmp_path, "--work", tmp_path / "work", "--sizes", size]
    invoke(rivals.main, *options, "--single-budget", 0.3)
    folder = tmp_path / name
    pixels = torch.from_numpy(fashion.test_images().scaled()[:4])
    assert read_rival(folder / f"static-{size}.safetensors")(pixels).shape == (4, 10)
    for label in ("single-budget-0.3", "training-free"):
        model = load_package(folder / "packages" / label / "1")
        assert model.table is not None and model.table.metric == "accuracy"
    single = load_package(folder / "packages" / "single-budget-0.3" / "1").table
    assert single is not None and single.budgets == (0.3, 1.0)


def test_unknown_models_have_no_rivals() -> None:
    with pytest.raises(typer.BadParameter, match="fashion-mlp"):
        rivals.main("nobody")


def test_static_pruning_keeps_what_varies_and_folds_what_does_not() -> None:
    torch.manual_seed(0)
    config = GatedEncoderConfig(
        vocabulary=50, max_positions=16, width=24, num_layers=2, num_heads=3, num_units=40, rank=4
    )
    network = GatedEncoder(config).eval()
    batches = [([5, 3], torch.randint(0, 50, (8,)))]
    with torch.no_grad():
        for layer in network.layers:
            layer.ffn.up.weight[7:] = 0.0  # these units answer a constant
    set_means_(network, batches)
    energies = unit_energies(network, batches)
    assert all(float(energy[7:].max()) < 1e-8 < float(energy[:7].min()) for energy in energies)
    small = pruned(network, energies, 7)
    with torch.no_grad():
        torch.testing.assert_close(small(*batches[0]), network(*batches[0]), atol=1e-5, rtol=1e-5)
        worse = pruned(network, energies, 2)(*batches[0])
    assert not torch.allclose(worse, network(*batches[0]), atol=1e-4)
