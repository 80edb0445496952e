"""fashion-resnet: dense meta-ACON teacher, channel gates fitted to it, one network for every budget, package."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from models.gated_resnet import GatedResNet, GatedResNetConfig, folded
from models.recipes.fashion_data import Splits, calibration_table, manifest
from models.recipes.fashion_training import GatedTraining, train_dense, train_gated
from models.recipes.lessons import fresh_lessons
from models.recipes.packaging import tensors_of, training_record, write_package, write_rival
from models.recipes.training import TrainConfig
from models.registry import shipped_repository
from swan_runtime.fit import fit_gates_

NAME = "fashion-resnet"
DESCRIPTION = "Classifies 28x28 pictures of clothes; a residual network whose channels are gated per picture"
DENSE = TrainConfig(epochs=10, batch_rows=128, max_lr=3e-3, weight_decay=0.05)
GATED = GatedTraining(
    TrainConfig(epochs=4, batch_rows=128, max_lr=1e-3, weight_decay=0.05, warm_up=0.1, gate_lr=3.0), low=0.11
)
MAX_SHIFT = 2
# NOTE: below .14 the gate and the dense stem, shortcuts and head are most of what is left: no time is saved
BUDGETS = (0.14, 0.17, 0.2, 0.24, 0.28, 0.33, 0.38, 0.5, 0.7, 1.0)


def main(
    quick: Annotated[bool, typer.Option(help="Few images, one epoch: under a minute, for tests.")] = False,
    out: Annotated[Path | None, typer.Option(help="Model repository to write to.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with the training files, instead of apt.")] = None,
    work: Annotated[Path, typer.Option(help="Checkpoints; a broken-off run goes on from here.")] = Path("out/recipes"),
    rivals: Annotated[Path | None, typer.Option(help="Also keep the dense teacher here.")] = None,
    activation: Annotated[str, typer.Option(help="Of the gated channels: relu, acon_c or meta_acon.")] = "meta_acon",
    shaping: Annotated[float, typer.Option(help="Initial weight of the batch-shaping loss; 0 = without.")] = 0.0,
    expansion: Annotated[int, typer.Option(help="Gated channels as a multiple of a block's width.")] = 6,
    seed: Annotated[int, typer.Option(help="Of initial weights, order and augmentation.")] = 0,
) -> None:
    """Train, calibrate and package. About 40 minutes on one quiet core."""
    console = Console()
    splits = Splits.load(data, 256 if quick else None, console)
    config = GatedResNetConfig(expansion=expansion, activation=activation)

    def sized(train: TrainConfig) -> TrainConfig:
        return replace(train, seed=seed, epochs=1 if quick else train.epochs)

    def checkpoint(stage: str) -> Path | None:
        return None if quick else work / NAME / f"{activation}-{expansion}-{shaping}-{seed}-{stage}.safetensors"

    torch.manual_seed(seed)
    teacher = GatedResNet(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
    for name, parameter in teacher.named_parameters():
        parameter.requires_grad_(".gate." not in name)
    train_dense("teacher", teacher, splits, sized(DENSE), checkpoint("teacher"), fresh_lessons(splits, MAX_SHIFT))
    network = GatedResNet(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.load_state_dict(teacher.state_dict())
    fit_gates_(network, [(splits.scaled(1024),)])
    how = replace(GATED, train=sized(GATED.train), shaping=shaping)
    train_gated("gated", network, splits, how, checkpoint("gated"), fresh_lessons(splits, MAX_SHIFT, teacher))

    network = folded(network)
    held_out = splits.calibration.take(slice(0, 200 if quick else None))
    table = calibration_table(NAME, network, held_out, (0.2, 0.5) if quick else BUDGETS)
    described = manifest(NAME, "gated_resnet", asdict(network.config), DESCRIPTION, deadline_s=0.1)
    described = replace(described, training=training_record("fashion_resnet", seed, epochs=GATED.train.epochs))
    console.print(f"wrote {write_package(out or shipped_repository(), '1', described, tensors_of(network), table)}")
    if rivals is not None:
        write_rival(rivals / NAME / "dense.safetensors", folded(teacher))


if __name__ == "__main__":
    typer.run(main)
