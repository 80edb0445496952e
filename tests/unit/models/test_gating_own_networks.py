"""`swan gate`: a trained dense network becomes a package that loads, serves, lists, recalibrates and compacts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from models.dense import padded_encoder
from models.gating import DenseSource, GateSettings, gate_package
from models.registry import load_package
from service.cli import app
from swan_runtime.activations import MetaAcon
from swan_runtime.calibrate import CalibrationConfig, calibrate
from swan_runtime.convert import gate_
from swan_runtime.errors import FieldError
from swan_runtime.kernels.linear import FIRST_ROWS
from swan_runtime.runtime import Runtime


class Small(nn.Module):
    """x [B, 12], scale [B, 1] -> logits [B, 3]."""

    def __init__(self, hidden: int = 48) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(12, hidden), nn.Linear(hidden, 3)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        out: Tensor = self.two(F.relu(self.one(x * scale)))
        return out


class Picture(nn.Module):
    """[B, 3, 8, 8] -> [B, 2]; meta-ACON whose switch reads the block's input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.act = nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20), MetaAcon(20, 3)
        self.conv2, self.head = nn.Conv2d(20, 6, 3, padding=1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.norm(self.conv1(x)), x)
        out: Tensor = self.head(self.conv2(hidden).mean((2, 3)))
        return out


def no_module() -> int:
    return 3


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(weights, data) of a Small network and its own labels."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    network = Small()
    save_file(network.state_dict(), folder / "small.safetensors")
    x = torch.randn(120, 12)
    scale = torch.rand(120, 1) + 0.5
    with torch.no_grad():
        labels = network(x, scale).argmax(1)
    np.savez(folder / "data.npz", scale=scale.numpy(), x=x.numpy(), labels=labels.numpy())
    return folder / "small.safetensors", folder / "data.npz"


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def test_a_dense_network_becomes_a_package(small: tuple[Path, Path], tmp_path: Path) -> None:
    weights, data = small
    command = ["gate", f"{__name__}:Small", "--weights", weights, "--data", data, "--rank", 6, "--out", tmp_path]
    code, said = run(*command, "--name", "mine", "--classes", "a,b,c")
    assert code == 0, said
    model = load_package(tmp_path / "mine" / "1")
    assert model.table is not None and model.table.metric == "accuracy" and model.table.n == 60
    assert [spec.name for spec in model.spec.inputs] == ["x", "scale"]  # forward's order, not the file's
    columns = np.load(data)
    inputs = {name: columns[name] for name in ("x", "scale")}
    answer = model.infer(inputs, np.ones(120))
    assert (answer.outputs["OUTPUT"].argmax(1) == columns["labels"]).all()
    cheap = model.infer(inputs, np.full(120, 0.2))
    assert sum(r.macs_active for r in cheap.reports) < 0.5 * sum(r.macs_active for r in answer.reports)
    model.warm_up()

    code, said = run("models", "--repository", tmp_path)
    assert code == 0 and "mine" in said and "accuracy on 60" in said
    code, said = run("calibrate", "mine", "--data", data, "--repository", tmp_path, "--out", tmp_path / "new")
    assert code == 0, said
    program = tmp_path / "mine.pt2"
    code, said = run("compact", "mine", "--budget", 0.5, "--data", data, "--repository", tmp_path, "--out", program)
    assert code == 0 and "accuracy on 60 samples" in said, said
    plain = torch.export.load(program).module()
    got = plain(torch.from_numpy(inputs["x"]), torch.from_numpy(inputs["scale"]))
    assert float((got.argmax(1).numpy() == columns["labels"]).mean()) > 0.8
    code, said = run("compact", "mine", "--budget", 0.5, "--repository", tmp_path)
    assert code == 2 and "no sample for this model" in said


def test_images_with_meta_acon_are_gated_and_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = {"image": torch.randn(24, 3, 8, 8).numpy()}
    source = DenseSource(f"{__name__}:Picture")
    path, table = gate_package("picture", source, images, GateSettings(rank=2, budgets=(0.5,)), tmp_path)
    assert table.metric == "cosine" and table.points[-1].quality == pytest.approx(1.0)
    report = load_package(path).infer(images, np.full(24, 0.5)).reports[0]
    assert [layer.name for layer in report.layers] == ["module.conv1"] and report.activity < 0.9


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("nowhere:Model", [], "importable"),
        (f"{__name__}:no_module", [], "a torch module"),
        (f"{__name__}:Small", ["--config", '{"depth": 1}'], "the arguments of"),
        (f"{__name__}:Small", ["--config", "{"], "a JSON object"),
        (f"{__name__}:Small", ["--config", '{"hidden": 7}', "--weights", "WEIGHTS"], "float32"),
        (f"{__name__}:Small", ["--granularity", "word"], "token or request"),
        ("torch.nn:Linear", ["--config", '{"in_features": 2, "out_features": 2}'], "Linear-activation-Linear"),
    ],
)
def test_what_cannot_be_gated_says_why(
    small: tuple[Path, Path], tmp_path: Path, model: str, options: list[str], message: str
) -> None:
    weights, data = small
    options = [str(weights) if option == "WEIGHTS" else option for option in options]
    code, said = run("gate", model, "--data", data, "--out", tmp_path, *options)
    assert code == 2 and message in said, said
    assert not list(tmp_path.iterdir())


def test_too_few_rows_and_odd_types_are_refused(tmp_path: Path) -> None:
    source = DenseSource(f"{__name__}:Small")
    columns = {"x": np.zeros((3, 12), dtype=np.float32), "scale": np.ones((3, 1), dtype=np.float32)}
    with pytest.raises(FieldError, match="at least 4 rows"):
        gate_package("m", source, columns, GateSettings(), tmp_path)
    with pytest.raises(FieldError, match="numbers or booleans"):
        gate_package("m", source, {"x": np.array(["a"] * 8)}, GateSettings(), tmp_path)


@pytest.mark.parametrize("granularity", ["token", "request"])
def test_attention_of_a_gated_dense_encoder_is_fixed_compute(granularity: str) -> None:
    width, units, tokens, layers = 32, 48, FIRST_ROWS, 2
    sizes = {"vocabulary": 50, "max_positions": tokens, "width": width, "num_units": units, "num_layers": layers}
    dense = padded_encoder(**sizes, num_heads=2)
    dense.eval().requires_grad_(False)
    batch = torch.randint(1, 50, (40, tokens)), torch.ones(40, tokens, dtype=torch.bool)
    model = gate_(dense, [batch], rank=4, granularity=granularity)
    table = calibrate(model, [batch], lambda out: 0.0, CalibrationConfig("m", "none", budgets=(0.3, 0.6)))
    _, reports = Runtime(model, table).infer(batch, [0.45] * 40)
    attention = layers * (4 * width * width * tokens + 2 * width * tokens * tokens)
    assert {report.macs_fixed for report in reports} == {attention}
    assert reports[0].macs_dense == table.macs_dense == attention + layers * tokens * 2 * width * units
