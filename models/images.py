"""The two image families behind one contract: INPUT FP32 [784] in 0..1 -> PROBABILITIES FP32 [10]."""

from __future__ import annotations

from collections.abc import Mapping
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
        images = test_images().take(slice(0, min(rows, 1024))).scaled
        return {"INPUT": np.resize(images, (rows, images.shape[1]))}


def load_mlp(package: Package) -> GatedServable:
    return _load(package, SwanMLP(_config(package, SwanMLPConfig)))


def load_resnet(package: Package) -> GatedServable:
    settings = dict(package.manifest.config)
    settings["widths"] = tuple(settings.get("widths", ()))
    return _load(package, GatedResNet(_config(package, GatedResNetConfig, settings)))


def _config(package: Package, kind: type[Any], settings: Mapping[str, Any] | None = None) -> Any:
    try:
        return kind(**(package.manifest.config if settings is None else settings))
    except TypeError as error:
        raise PackageError("config", f"the settings of {kind.__name__}", str(error)) from None


def _load(package: Package, network: nn.Module) -> GatedServable:
    if package.weights_path is None:
        raise PackageError("weights", "a file", "none")
    load_weights_(network, package.weights_path)
    spec = package.manifest.spec(package.version, PLATFORM)
    return GatedServable(spec, network, package_table(package), PixelCodec())
