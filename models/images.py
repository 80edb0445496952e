"""The two image families behind one contract: INPUT FP32 [784] in 0..1 -> PROBABILITIES FP32 [10]."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.data.fashion import LABELS, test_images
from models.errors import PackageError
from models.gated import PLATFORM, GatedServable, package_table
from models.gated_resnet import GatedResNet, GatedResNetConfig
from models.interface import Arrays, TensorSpec
from models.package import Package
from models.swan_mlp import SwanMLP, SwanMLPConfig
from swan_runtime.checkpoint import load_weights_

INPUTS = (TensorSpec("INPUT", "FP32", (784,)),)
OUTPUTS = (TensorSpec("PROBABILITIES", "FP32", (len(LABELS),)),)
PREPROCESSING = "28x28 grey pixels, row by row, light object on black, scaled to 0..1; normalised inside the model"


class PixelCodec:
    """Pixels in, class probabilities out."""

    def encode(self, inputs: Arrays) -> tuple[Tensor, ...]:
        return (torch.from_numpy(np.ascontiguousarray(inputs["INPUT"], dtype=np.float32)),)

    def decode(self, outputs: Tensor) -> Mapping[str, NDArray[Any]]:
        return {"PROBABILITIES": outputs.softmax(-1).numpy()}

    def example(self, rows: int) -> Arrays:
        """The first test images, again and again."""
        images = test_images().take(slice(0, min(rows, 1024))).scaled()
        return {"INPUT": np.resize(images, (rows, images.shape[1]))}


class Dense(nn.Module):
    """The same weights without gates: pixels [rows, 784] to probabilities [rows, 10], every unit computed by torch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        probabilities: Tensor = self.network(pixels).softmax(-1)
        return probabilities


def load_mlp(package: Package) -> GatedServable:
    return _load(package, _mlp(package))


def load_resnet(package: Package) -> GatedServable:
    return _load(package, _resnet(package))


def load_dense(package: Package) -> Dense:
    """What peers serve in benchmarks: the package's network as a plain torch module."""
    families = {"swan_mlp": _mlp, "gated_resnet": _resnet}
    if package.manifest.family not in families:
        raise PackageError("family", f"one of {sorted(families)}", package.manifest.family)
    network = families[package.manifest.family](package)
    load_weights_(network, _weights(package))
    return Dense(network.eval().requires_grad_(False))


def _mlp(package: Package) -> nn.Module:
    return SwanMLP(_config(package, SwanMLPConfig))


def _resnet(package: Package) -> nn.Module:
    settings = dict(package.manifest.config)
    settings["widths"] = tuple(settings.get("widths", ()))
    return GatedResNet(_config(package, GatedResNetConfig, settings))


def _config(package: Package, kind: type[Any], settings: Mapping[str, Any] | None = None) -> Any:
    try:
        return kind(**(package.manifest.config if settings is None else settings))
    except TypeError as error:
        raise PackageError("config", f"the settings of {kind.__name__}", str(error)) from None


def _load(package: Package, network: nn.Module) -> GatedServable:
    load_weights_(network, _weights(package))
    spec = package.manifest.spec(package.version, PLATFORM)
    return GatedServable(spec, network, package_table(package), PixelCodec())


def _weights(package: Package) -> Path:
    if package.weights_path is None:
        raise PackageError("weights", "a file", "none")
    return package.weights_path
