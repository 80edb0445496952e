"""Networks without gates: they answer like the gated ones with every unit on, and survive a file."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from models.dense import PaddedEncoder, dense_resnet, gated_encoder, gated_resnet, padded_encoder, ungated
from models.gated_resnet import GatedResNet
from models.recipes.packaging import read_rival, write_rival
from models.swan_mlp import DenseMLP, SwanMLPConfig
from swan_runtime.errors import CheckpointError

TINY_TEXT = {"vocabulary": 50, "max_positions": 16, "width": 24, "num_layers": 2, "num_heads": 3, "num_units": 40}
LENGTHS = [3, 7, 1]
IDS = torch.randint(0, 50, (11,), generator=torch.Generator().manual_seed(0))


def seasoned(network: nn.Module) -> nn.Module:
    """BatchNorm statistics and means that matter."""
    torch.manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith(("running_var", "running_mean", ".mean")):
            value.copy_(torch.rand_like(value) + 0.5)
    return network.eval()


def test_resnet_without_gates_answers_the_same() -> None:
    network = seasoned(gated_resnet(widths=[8, 16], expansion=2))
    pixels = torch.rand(3, 784)
    with torch.no_grad():
        wanted = network(pixels)
        torch.testing.assert_close(ungated(network)(pixels), wanted, atol=1e-4, rtol=1e-4)
        plain = dense_resnet(widths=[8, 16], expansion=2)
        plain.load_state_dict({k: v for k, v in network.state_dict().items() if k in plain.state_dict()})
        torch.testing.assert_close(plain.eval()(pixels), wanted, atol=1e-5, rtol=1e-5)


def test_encoder_without_gates_and_padded_answers_the_same() -> None:
    torch.manual_seed(0)
    network = gated_encoder(**TINY_TEXT).eval()
    rows = torch.nn.utils.rnn.pad_sequence(list(IDS.split(LENGTHS)), batch_first=True)
    valid = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
    with torch.no_grad():
        wanted = network(LENGTHS, IDS)
        plain = ungated(network)
        torch.testing.assert_close(plain(LENGTHS, IDS), wanted)
        padded = PaddedEncoder.around(plain)
        torch.testing.assert_close(padded(rows, valid), wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(padded(rows[:1, :3], valid[:1, :3]), wanted[:1], atol=1e-5, rtol=1e-5)
        own = padded_encoder(**TINY_TEXT)
        own.load_state_dict({k: v for k, v in network.state_dict().items() if k in own.state_dict()})
        torch.testing.assert_close(own(rows, valid), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "network",
    [DenseMLP(SwanMLPConfig(hidden=16)), gated_resnet(widths=(8,), expansion=1), gated_encoder(**TINY_TEXT)],
    ids=["mlp", "resnet", "encoder"],
)
def test_rivals_come_back_from_their_file(network: nn.Module, tmp_path: Path) -> None:
    network = seasoned(copy.deepcopy(network))
    write_rival(tmp_path / "one.safetensors", network)
    inputs = (LENGTHS, IDS) if not isinstance(network, DenseMLP | GatedResNet) else (torch.rand(4, 784),)
    with torch.no_grad():
        torch.testing.assert_close(
            read_rival(tmp_path / "one.safetensors")(*inputs), network(*inputs), atol=1e-4, rtol=1e-4
        )


def test_other_files_are_no_rivals(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(CheckpointError, match="a file"):
        read_rival(tmp_path / "none.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="a rival"):
        read_rival(tmp_path / "x.safetensors")
    write_rival(tmp_path / "y.safetensors", DenseMLP(SwanMLPConfig(hidden=4)))
    assert read_rival(tmp_path / "y.safetensors")(torch.rand(1, 784)).shape == (1, 10)
