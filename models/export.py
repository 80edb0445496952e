"""A package as a plain dense network for one budget: what is left of it, how good and how fast that is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.calibration import batches_of, metric_of
from models.data.descriptions import sample_descriptions
from models.data.fashion import test_images
from models.dense import PaddedEncoder, swap_gated, ungated
from models.gated import GatedServable
from models.gated_encoder import GatedEncoder
from models.text import TextCodec
from models.user_data import UserData
from swan_runtime.bind import GatedModel
from swan_runtime.calibrate import Inputs
from swan_runtime.compact import Compacted, compact, compact_layers
from swan_runtime.errors import InvalidInputError

SAMPLE_IMAGES = 3000
"""A unit that never fired in 3,000 images fires in at most 0.1 % of them (95 %)."""
SAMPLE_TEXTS = 96
"""About 9,000 tokens, each with its own mask."""
TIMED_ROUNDS = 25


@dataclass(frozen=True)
class Export:
    """quality: `metric` of the plain network on n samples that had no say in it, beside that of the gated one.

    ms: of one request on the threads torch has, best of interleaved rounds: plain, gated at the budget, all units on.
    """

    compacted: Compacted
    metric: str
    n: int
    quality: float
    gated_quality: float
    ms: float
    gated_ms: float
    dense_ms: float

    def __str__(self) -> str:
        return (
            f"{self.compacted}\n"
            f"{self.metric} on {self.n} samples: {self.quality:.4f} (gated: {self.gated_quality:.4f})\n"
            f"one request: {self.ms:.3f} ms (gated: {self.gated_ms:.3f} ms, all units on: {self.dense_ms:.3f} ms)"
        )


def sample_data(model: GatedServable) -> tuple[UserData, UserData]:
    """Shipped data: (inputs that decide which units are needed, data to measure on).

    Raises InvalidInputError for a model that takes neither the shipped images nor texts.
    """
    spec = model.spec.inputs[0]
    if isinstance(model.codec, TextCodec):
        texts = [[row.long.encode() for row in sample_descriptions(part)] for part in ("calibration", "test")]
        arrays = [np.array(part[:SAMPLE_TEXTS], dtype=np.object_).reshape(-1, 1) for part in texts]
        return UserData({spec.name: arrays[0]}, None), UserData({spec.name: arrays[1]}, None)
    if spec.shape != (784,):
        raise InvalidInputError("data", "a file (--data): no sample for this model ships", "none")
    images = test_images()
    whole = UserData({spec.name: images.scaled()}, images.labels)
    return whole.take(slice(-SAMPLE_IMAGES, None)), whole.take(slice(0, len(whole) - SAMPLE_IMAGES))


def compact_network(model: GatedServable, budget: float, inputs: Sequence[Inputs], min_rate: float = 0.0) -> Compacted:
    """A plain dense module at `budget`; `inputs` decide which units are needed.

    min_rate: units that run for at most this share of the inputs are dropped; 0 = only those that never run.
    The module takes the network's own arguments: for texts (lengths, ids).
    """
    network, table = model.runtime.model, model.runtime.table
    if isinstance(network, GatedModel):
        return compact(network, budget, table, inputs, min_rate)
    blocks, layers = compact_layers(network, budget, table, inputs, min_rate)
    return Compacted(swap_gated(network, blocks), budget, layers)


@torch.no_grad()
def export(
    model: GatedServable, budget: float, decides: UserData, measured_on: UserData, min_rate: float = 0.0
) -> Export:
    """Compact, then measure on data that had no say in what was dropped. Raises InvalidInputError."""
    compacted = compact_network(model, budget, batches_of(model, decides), min_rate)
    batches = batches_of(model, measured_on)
    network = model.runtime.model
    full = torch.cat([network(*inputs, plan=None) for inputs in batches])
    metric, measure = metric_of(full, measured_on.labels, bool(model.spec.labels))
    one = model.codec.encode(measured_on.take(slice(0, 1)).inputs)
    dense = network if isinstance(network, GatedModel) else ungated(network)
    calls: list[Callable[[], object]] = [
        lambda: compacted.module(*one),
        lambda: model.runtime.infer(one, [budget]),
        lambda: dense(*one),
    ]
    best = _best_ms(calls)
    return Export(
        compacted,
        metric,
        len(measured_on),
        measure(torch.cat([compacted.module(*inputs) for inputs in batches])),
        measure(torch.cat([_gated_answer(model, inputs, budget) for inputs in batches])),
        *best,
    )


def save_program(model: GatedServable, module: nn.Module, path: Path) -> None:
    """Write a torch.export program that runs with torch alone; any number of rows, and of tokens for texts.

    Images and imported models take their declared inputs; texts take (ids [B, T] int64, valid [B, T] bool).
    """
    rows = torch.export.Dim("rows", min=1)
    if isinstance(module, GatedEncoder):
        module = PaddedEncoder.around(module)
        tokens = torch.export.Dim("tokens", min=2, max=module.positions.num_embeddings)
        example: tuple[Tensor, ...] = (torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.bool))
        shapes: tuple[dict[int, object], ...] = ({0: rows, 1: tokens}, {0: rows, 1: tokens})
    else:
        example = tuple(value.clone() for value in model.codec.encode(model.example(2)))
        shapes = tuple({0: rows} for _ in example)
    with torch.no_grad():
        torch.export.save(torch.export.export(module, example, dynamic_shapes=shapes), path)


def _gated_answer(model: GatedServable, inputs: Inputs, budget: float) -> Tensor:
    outputs: Tensor = model.runtime.infer(inputs, [budget] * len(inputs[0]))[0]
    return outputs


def _best_ms(calls: Sequence[Callable[[], object]]) -> list[float]:
    best = [float("inf")] * len(calls)
    for _ in range(TIMED_ROUNDS):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[i] = min(best[i], (time.perf_counter() - start) * 1e3)
    return best
