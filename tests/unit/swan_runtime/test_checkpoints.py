"""Checkpoints round-trip exactly; whatever is missing, corrupt, newer or another model's is refused by name."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from swan_runtime import checkpoint
from swan_runtime.convert import harden_
from swan_runtime.errors import CheckpointError


@pytest.fixture
def saved(networks: SimpleNamespace, tmp_path: Path) -> Path:
    checkpoint.save(networks.TinyConv("meta_acon"), tmp_path / "made", {"width": 8})
    return tmp_path / "made"


def test_a_checkpoint_restores_every_tensor_and_the_config(networks: SimpleNamespace, saved: Path) -> None:
    model = networks.TinyConv("meta_acon")
    other = networks.TinyConv("meta_acon")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    assert checkpoint.fingerprint(other) != checkpoint.fingerprint(model)
    checkpoint.load_(other, saved)
    for name, value in checkpoint_state(saved, networks).items():
        assert torch.equal(other.state_dict()[name], value)
    assert checkpoint.read_header(saved)["config"] == {"width": 8}


def checkpoint_state(saved: Path, networks: SimpleNamespace) -> dict[str, torch.Tensor]:
    model = networks.TinyConv("meta_acon")
    return checkpoint.load_(model, saved).state_dict()


def test_the_fingerprint_follows_weights_only(networks: SimpleNamespace) -> None:
    model = networks.TinyMLP()
    before = checkpoint.fingerprint(model)
    assert checkpoint.fingerprint(harden_(model)) == before
    with torch.no_grad():
        model.first.mean[0] += 1e-6
    assert checkpoint.fingerprint(model) != before


def edit(saved: Path, **changes: object) -> None:
    path = saved / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_newer_format_is_refused(networks: SimpleNamespace, saved: Path) -> None:
    for version in (checkpoint.FORMAT_VERSION + 1, 0, "1", None):
        edit(saved, format_version=version)
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load_(networks.TinyConv("meta_acon"), saved)
        assert caught.value.field == "format_version"
        assert caught.value.got == repr(version)


def test_changed_weights_are_refused_by_fingerprint(networks: SimpleNamespace, saved: Path) -> None:
    edit(saved, fingerprint="0" * 64)
    with pytest.raises(CheckpointError, match="fingerprint"):
        checkpoint.load_(networks.TinyConv("meta_acon"), saved)


@pytest.mark.parametrize("text", ["{", "[]", "{}", "\xff"])
def test_a_broken_header_is_refused(networks: SimpleNamespace, saved: Path, text: str) -> None:
    (saved / "checkpoint.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"checkpoint\.json"):
        checkpoint.load_(networks.TinyConv("meta_acon"), saved)


def test_broken_or_missing_weights_are_refused(networks: SimpleNamespace, saved: Path) -> None:
    weights = saved / "weights.safetensors"
    content = weights.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"\xff" * 64):
        weights.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
            checkpoint.load_(networks.TinyConv("meta_acon"), saved)
    weights.unlink()
    with pytest.raises(CheckpointError, match="got none"):
        checkpoint.load_(networks.TinyConv("meta_acon"), saved)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json"):
        checkpoint.load_(networks.TinyConv(), saved.parent / "nowhere")


def test_weights_of_another_model_name_the_tensor(networks: SimpleNamespace, saved: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_(networks.TinyMLP(), saved)
    assert caught.value.field == "first.down.bias"
    wider = networks.TinyConv("meta_acon")
    wider.head = nn.Linear(12, 9)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_(wider, saved)
    assert (caught.value.field, caught.value.expected) == ("head.weight", "torch.float32 (9, 12)")
    smaller = networks.TinyConv("meta_acon")
    del smaller.a.act
    with pytest.raises(CheckpointError, match="no such tensor"):
        checkpoint.load_(smaller, saved)
