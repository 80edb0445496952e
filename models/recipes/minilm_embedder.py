"""minilm-embedder: all-MiniLM-L6-v2 with gates fitted to package descriptions; its own weights stay untouched."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from safetensors.torch import load
from tokenizers import Tokenizer

from models.data.descriptions import sample_descriptions
from models.gated_encoder import GatedEncoder, GatedEncoderConfig, adopt_minilm_
from models.package import Manifest
from models.recipes.packaging import write_package
from models.recipes.text_quality import paired_texts, recall_at_1, text_batches
from models.registry import shipped_repository
from models.text import BASE, FOLDER, INPUTS, OUTPUTS, PREPROCESSING, TextCodec, base_files
from swan_runtime.calibrate import CalibrationConfig, calibrate
from swan_runtime.fit import fit_gates_

BUDGETS = (0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
NAME = "minilm-embedder"
DESCRIPTION = "Embeds sentences (all-MiniLM-L6-v2); the feed-forward units are gated per token"


def main(
    quick: Annotated[bool, typer.Option(help="Few texts and budgets: under a minute, for tests.")] = False,
    out: Annotated[Path | None, typer.Option(help="Model repository to write to.")] = None,
    rank: Annotated[int, typer.Option(help="Rank of the gates.")] = 48,
    granularity: Annotated[str, typer.Option(help="A mask per token or per request.")] = "token",
) -> None:
    """Fit gates from the data (PCA of each block's inputs), calibrate on held-out packages, write the package."""
    console = Console()
    files = base_files(BASE)
    network = GatedEncoder(GatedEncoderConfig(rank=rank, granularity=granularity))
    adopt_minilm_(network, load(files[f"{FOLDER}/model.safetensors"])).eval()
    codec = TextCodec(Tokenizer.from_str(files[f"{FOLDER}/tokenizer.json"].decode("utf-8")))

    train = sample_descriptions("train")[: 32 if quick else 256]
    console.print(f"fitting gates of rank {rank} on {len(train)} descriptions")
    fit_gates_(network, text_batches(codec, [row.long for row in train]))

    held_out = sample_descriptions("calibration")[: 24 if quick else 500]
    config = CalibrationConfig(NAME, "recall_at_1", BUDGETS[2::2] if quick else BUDGETS)
    console.print(f"calibrating {len(config.budgets)} budgets on {len(held_out)} packages held out")
    thresholds_on = text_batches(codec, [row.long for row in held_out[:64]])
    batches = text_batches(codec, paired_texts(held_out))
    table = calibrate(network, batches, recall_at_1, config, thresholds_on)
    for point in table.points:
        share = point.macs_mean / table.macs_dense
        console.print(f"budget {point.budget:.2f}  MACs {share:.2f}  R@1 {point.quality:.3f}")

    manifest = Manifest(
        name=NAME,
        family="gated_encoder",
        config=asdict(network.config),
        description=DESCRIPTION,
        licence="Apache-2.0",
        credits="all-MiniLM-L6-v2 (sentence-transformers), Apache-2.0; gates fitted on Debian package descriptions",
        preprocessing=PREPROCESSING,
        inputs=INPUTS,
        outputs=OUTPUTS,
        max_batch_size=32,
        default_deadline_s=0.25,
        base_weights=BASE,
    )
    learned = {name: value for name, value in network.state_dict().items() if _is_learned(name)}
    console.print(f"wrote {write_package(out or shipped_repository(), '1', manifest, learned, table)}")


def _is_learned(name: str) -> bool:
    return ".gate." in name or name.endswith(".ffn.mean")


if __name__ == "__main__":
    typer.run(main)
