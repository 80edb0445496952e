"""What the two Fashion-MNIST recipes share: data as tensors, calibration, the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from models.data import fashion
from models.images import INPUTS, OUTPUTS, PREPROCESSING
from models.package import Manifest
from swan_runtime.budget import CalibrationTable
from swan_runtime.calibrate import CalibrationConfig, calibrate

BUDGETS = (0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.38, 0.5, 0.7, 1.0)
CREDITS = "Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), MIT, from Debian's dataset-fashion-mnist"


@dataclass(frozen=True, slots=True)
class Splits:
    """pixels: uint8 [n, 784] to train on; labels: [n]; calibration: held out from training and test."""

    pixels: Tensor
    labels: Tensor
    calibration: fashion.Images

    @staticmethod
    def load(folder: Path | None, limit: int | None, console: Console) -> Splits:
        """limit: rows to train on, for a quick run."""
        train, calibration = fashion.train_and_calibration(folder, console.print)
        kept = train.take(slice(0, limit))
        return Splits(torch.from_numpy(kept.pixels.copy()), torch.from_numpy(kept.labels.copy()), calibration)

    def scaled(self, rows: int) -> Tensor:
        """The first training rows as the models take them: [rows, 784] in 0..1."""
        return self.pixels[:rows].float() / 255.0


def batches_of(images: fashion.Images, rows: int = 500) -> list[tuple[Tensor]]:
    return [(part,) for part in torch.split(torch.from_numpy(images.scaled()), rows)]


def accuracy(outputs: Tensor, labels: Sequence[int] | Tensor) -> float:
    return float((outputs.argmax(-1) == torch.as_tensor(labels)).float().mean())


def calibration_table(
    name: str, network: nn.Module, images: fashion.Images, budgets: tuple[float, ...] = BUDGETS
) -> CalibrationTable:
    """Accuracy and compute of every budget on images held out from training and test."""
    config = CalibrationConfig(name, "accuracy", budgets)
    return calibrate(network, batches_of(images), lambda outputs: accuracy(outputs, images.labels.tolist()), config)


def manifest(name: str, family: str, config: Mapping[str, Any], description: str, deadline_s: float) -> Manifest:
    return Manifest(
        name=name,
        family=family,
        config=config,
        description=description,
        licence="Apache-2.0",
        credits=CREDITS,
        preprocessing=PREPROCESSING,
        inputs=INPUTS,
        outputs=OUTPUTS,
        labels=fashion.LABELS,
        max_batch_size=64,
        default_deadline_s=deadline_s,
    )
