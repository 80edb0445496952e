"""fashion-mlp: dense teacher, gates from its first layer, one network for every budget, package."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from models.images import load_dense
from models.package import read_package
from models.recipes.fashion_data import BUDGETS, Splits, calibration_table, manifest
from models.recipes.fashion_training import GatedTraining, train_dense, train_gated
from models.recipes.lessons import banked_lessons, fresh_lessons
from models.recipes.packaging import tensors_of, training_record, write_package, write_rival
from models.recipes.training import TrainConfig
from models.registry import shipped_repository
from models.swan_mlp import DenseMLP, SwanMLP, SwanMLPConfig, adopt_
from swan_runtime.fit import fit_gates_

NAME = "fashion-mlp"
DESCRIPTION = "Classifies 28x28 pictures of clothes; a perceptron whose units are gated per picture (SWAN)"
DENSE = TrainConfig(epochs=30, batch_rows=256, max_lr=1.5e-3, weight_decay=0.05)
GATED = GatedTraining(
    TrainConfig(epochs=40, batch_rows=256, max_lr=1e-3, weight_decay=0.02, warm_up=0.1), low=0.06, distil=0.8
)
TEACHER = "fashion-resnet"
"""The packaged residual network at full budget: a better teacher than a perceptron of any size."""
VARIANTS = 10
MAX_SHIFT = 1


def main(
    quick: Annotated[bool, typer.Option(help="Few images, one epoch: under a minute, for tests.")] = False,
    out: Annotated[Path | None, typer.Option(help="Model repository to write to.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with the training files, instead of apt.")] = None,
    work: Annotated[Path, typer.Option(help="Checkpoints; a broken-off run goes on from here.")] = Path("out/recipes"),
    rivals: Annotated[Path | None, typer.Option(help="Also keep the dense teacher here.")] = None,
    seed: Annotated[int, typer.Option(help="Of initial weights, order and augmentation.")] = 0,
) -> None:
    """Train, calibrate and package. About 10 minutes on two quiet cores."""
    console = Console()
    splits = Splits.load(data, 1024 if quick else None, console)

    def sized(config: TrainConfig) -> TrainConfig:
        return replace(config, seed=seed, epochs=1 if quick else config.epochs)

    def checkpoint(stage: str) -> Path | None:
        return None if quick else work / NAME / f"{seed}-{stage}.safetensors"

    torch.manual_seed(seed)
    teacher = DenseMLP(SwanMLPConfig())
    train_dense("teacher", teacher, splits, sized(DENSE), checkpoint("teacher"), fresh_lessons(splits, MAX_SHIFT))
    network = adopt_(SwanMLP(SwanMLPConfig()), teacher)
    fit_gates_(network, [(splits.scaled(8000),)])
    console.print(f"{TEACHER} looks at {VARIANTS} variants of every image")
    professor = load_dense(read_package(shipped_repository() / TEACHER / "1")).network
    lessons = banked_lessons(splits, MAX_SHIFT, professor, 2 if quick else VARIANTS, seed, checkpoint("lessons"))
    train_gated("gated", network, splits, replace(GATED, train=sized(GATED.train)), checkpoint("gated"), lessons)

    held_out = splits.calibration.take(slice(0, 500 if quick else None))
    table = calibration_table(NAME, network, held_out, BUDGETS[::4] if quick else BUDGETS)
    described = manifest(NAME, "swan_mlp", asdict(network.config), DESCRIPTION, deadline_s=0.05)
    described = replace(described, training=training_record("fashion_mlp", seed, epochs=GATED.train.epochs))
    console.print(f"wrote {write_package(out or shipped_repository(), '1', described, tensors_of(network), table)}")
    if rivals is not None:
        write_rival(rivals / NAME / "dense.safetensors", teacher)


if __name__ == "__main__":
    typer.run(main)
