"""minilm-embedder: all-MiniLM-L6-v2 whose feed-forward units are gated per request, distilled from the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor

from models.data.descriptions import Description, sample_descriptions
from models.gated_encoder import GatedEncoder, GatedEncoderConfig
from models.package import Manifest
from models.recipes.encoder_blocks import fit_request_gate_
from models.recipes.encoder_lessons import PAIRS, Lessons, encoder_layers, learn_from, pairs_to_learn_from
from models.recipes.encoder_training import BLOCKS, WHOLE, EncoderTraining, learn_
from models.recipes.fashion_training import learn_means_
from models.recipes.packaging import training_record, write_package
from models.recipes.text_quality import paired_texts, recall_at_1, text_batches
from models.registry import shipped_repository
from models.text import BASE, INPUTS, OUTPUTS, PREPROCESSING, TextCodec, original_codec, original_encoder
from models.weight_changes import changed, changes_of
from swan_runtime.budget import CalibrationTable
from swan_runtime.calibrate import CalibrationConfig, calibrate, fit_thresholds, measure

RANK = 64
BUDGETS = (0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)
NAME = "minilm-embedder"
DESCRIPTION = "Embeds sentences (all-MiniLM-L6-v2); the feed-forward units are gated per request"
CHECKED = 150
"""Held-out pairs whose retrieval is shown after each epoch."""


def main(
    quick: Annotated[bool, typer.Option(help="Few texts, one epoch: under a minute, for tests.")] = False,
    out: Annotated[Path | None, typer.Option(help="Model repository to write to.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of apt's lists (Packages, Translation-en).")] = None,
    work: Annotated[Path, typer.Option(help="Checkpoints; a broken-off run goes on from here.")] = Path("out/recipes"),
    rank: Annotated[int, typer.Option(help="Rank of the gates.")] = RANK,
    seed: Annotated[int, typer.Option(help="Of the texts drawn, their order and the budgets.")] = 0,
) -> None:
    """Fit gates, train block by block, then the whole encoder; calibrate on held-out packages; write the package."""
    console = Console()
    torch.manual_seed(seed)
    original, codec = original_encoder(), original_codec()
    pairs = pairs_to_learn_from(data, seed, quick)
    console.print(f"the original reads {len(pairs)} pairs of texts")
    lessons = learn_from(original, codec, pairs, seed)
    network = gated_copy(original, lessons, rank)
    shown = _quality(network, codec, sample_descriptions("calibration")[: 24 if quick else CHECKED])
    learn_(network, original, lessons, EncoderTraining(work / NAME, seed, quick), shown)

    record = training_record(
        "minilm_embedder", seed, block_epochs=BLOCKS.epochs, epochs=WHOLE.train.epochs, pairs=PAIRS
    )
    described = replace(manifest(NAME, network, DESCRIPTION), training=record)
    budgets = BUDGETS[2::4] if quick else BUDGETS
    console.print(f"wrote {package(described, original, network, budgets, quick, out or shipped_repository())}")


def package(
    described: Manifest, original: GatedEncoder, network: GatedEncoder, budgets: Sequence[float], quick: bool, out: Path
) -> Path:
    """Calibrate the learned network on held-out packages, in the precision that is kept, and write it into `out`."""
    base = original.state_dict()
    changes = changes_of(base, network.state_dict())
    network.load_state_dict(changed(base, changes), strict=False)
    held_out = sample_descriptions("calibration")[: 24 if quick else 500]
    table = _calibrated(network.eval(), original_codec(), held_out, budgets)
    return write_package(out, "1", described, changes, table)


def gated_copy(original: GatedEncoder, lessons: Lessons, rank: int = RANK) -> GatedEncoder:
    """The original with gates fitted to the lessons; nothing is trained yet."""
    network = GatedEncoder(GatedEncoderConfig(rank=rank, granularity="request", pool="input"))
    network.load_state_dict(
        {name: v for name, v in original.state_dict().items() if ".gate." not in name}, strict=False
    )
    for layer, seen in zip(encoder_layers(network), lessons.blocks, strict=True):
        fit_request_gate_(layer, seen)
    learn_means_(network)
    return network


def _quality(network: GatedEncoder, codec: TextCodec, rows: Sequence[Description]) -> Callable[[], Mapping[str, float]]:
    """Recall at 1 in full and at budget 0.3, on held-out pairs."""
    batches = text_batches(codec, paired_texts(rows))
    config = CalibrationConfig(NAME, "recall_at_1", fit_rounds=1)

    def call() -> Mapping[str, float]:
        with torch.autocast("cpu", torch.bfloat16):
            return {f"R@1 at {b}": _recall(network, batches, b, config) for b in (1.0, 0.3)}

    return call


def _recall(
    network: GatedEncoder, batches: Sequence[tuple[list[int], Tensor]], budget: float, config: CalibrationConfig
) -> float:
    thresholds = fit_thresholds(network, batches, budget, config)
    return recall_at_1(measure(network, batches, thresholds).outputs.float())


def _calibrated(
    network: GatedEncoder, codec: TextCodec, held_out: Sequence[Description], budgets: Sequence[float]
) -> CalibrationTable:
    config = CalibrationConfig(NAME, "recall_at_1", tuple(budgets))
    thresholds_on = text_batches(codec, [text for row in held_out[:64] for text in (row.short, row.long)])
    return calibrate(network, text_batches(codec, paired_texts(held_out)), recall_at_1, config, thresholds_on)


def manifest(name: str, network: GatedEncoder, description: str) -> Manifest:
    return Manifest(
        name=name,
        family="gated_encoder",
        config=asdict(network.config),
        description=description,
        licence="Apache-2.0",
        credits="all-MiniLM-L6-v2 (sentence-transformers), Apache-2.0; distilled on Debian package descriptions",
        preprocessing=PREPROCESSING,
        inputs=INPUTS,
        outputs=OUTPUTS,
        max_batch_size=32,
        default_deadline_s=0.25,
        base_weights=BASE,
    )


if __name__ == "__main__":
    typer.run(main)
