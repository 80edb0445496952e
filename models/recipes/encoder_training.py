"""Both stages in which an encoder learns from the original: block by block, then as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from models.gated_encoder import GatedEncoder
from models.recipes.encoder_blocks import EVERY, Budgets, train_block_
from models.recipes.encoder_distillation import Distillation, distil_
from models.recipes.encoder_lessons import Lessons, encoder_layers
from models.recipes.training import TrainConfig

BLOCKS = TrainConfig(epochs=3, batch_rows=128, max_lr=4e-4, weight_decay=0.0, warm_up=0.1, max_grad_norm=0.5)
WHOLE = Distillation(
    TrainConfig(epochs=1, batch_rows=12, max_lr=1e-4, weight_decay=0.0, warm_up=0.1, max_grad_norm=1.0, gate_lr=0.1)
)


@dataclass(frozen=True)
class EncoderTraining:
    """One network's training. quick: few texts, one epoch, no checkpoints. folder: of its checkpoints.

    name: before the name of each stage, "" for the package itself.
    """

    folder: Path
    seed: int
    quick: bool
    name: str = ""
    budgets: Budgets = EVERY

    def sized(self, config: TrainConfig) -> TrainConfig:
        if self.quick:
            return replace(config, seed=self.seed, epochs=1, batch_rows=8)
        return replace(config, seed=self.seed)

    def stage(self, stage: str) -> str:
        return f"{self.name}-{stage}" if self.name else stage

    def checkpoint(self, stage: str) -> Path | None:
        return None if self.quick else self.folder / f"{self.seed}-{self.stage(stage)}.safetensors"


def learn_(
    network: GatedEncoder, original: GatedEncoder, lessons: Lessons, how: EncoderTraining,
    shown: Callable[[], Mapping[str, float]] = dict,
) -> None:  # fmt: skip
    """Train `network`, the original with gates or with fewer units, in place. shown: called after each whole epoch."""
    torch.manual_seed(how.seed)
    blocks = zip(encoder_layers(network), encoder_layers(original), lessons.blocks, strict=True)
    for i, (layer, dense, seen) in enumerate(blocks):
        block = f"block-{i}"
        train_block_(how.stage(block), layer, dense.ffn, seen, how.sized(BLOCKS), how.checkpoint(block), how.budgets)
    whole = replace(WHOLE, train=how.sized(WHOLE.train), budgets=how.budgets)
    distil_(network, lessons, whole, how.checkpoint("whole"), shown)
