"""Rivals of minilm-embedder: static encoders with fewer units, networks for one budget, gates without training.

Static ones start as the original without the units that vary least; they then learn as the gated one does, from the
same lessons, in as many steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from models.data.descriptions import sample_descriptions
from models.gated_encoder import EncoderLayer, GatedEncoder, GatedEncoderConfig
from models.gating import DenseSource, GateSettings, gate_package
from models.recipes import minilm_embedder
from models.recipes.encoder_blocks import Budgets
from models.recipes.encoder_lessons import Lessons, learn_from, pairs_to_learn_from
from models.recipes.encoder_training import EncoderTraining, learn_
from models.recipes.packaging import write_rival
from models.recipes.text_quality import text_batches
from models.text import TextCodec, original_codec, original_encoder
from swan_runtime.calibrate import Inputs, set_means_

DEFAULT_SIZES = (320, 544, 768)  # units a layer of 1536: 21, 35 and 50 % of the feed-forward MACs
GATED_TOKENS = 64
RANK = 48


@dataclass(frozen=True)
class RivalTraining:
    """quick: few texts, one epoch, no checkpoints. data: a folder of apt's lists. work: for checkpoints."""

    quick: bool
    data: Path | None
    work: Path
    seed: int

    def of(self, name: str, budgets: Budgets) -> EncoderTraining:
        return EncoderTraining(self.work / "rivals" / minilm_embedder.NAME, self.seed, self.quick, name, budgets)


def encoder_rivals(
    out: Path, sizes: Sequence[int], single: Sequence[float], how: RivalTraining, console: Console
) -> None:
    """Write dense, static-UNITS.safetensors and packages/training-free and single-budget-B into `out`."""
    network, codec = original_encoder(), original_codec()
    texts = [row.long for row in sample_descriptions("train")]
    write_rival(out / "dense.safetensors", network)
    console.print(f"wrote {_training_free(out, codec, texts, how.quick)}")
    batches = text_batches(codec, texts[: 16 if how.quick else 256])
    set_means_(network, batches)
    energies = unit_energies(network, batches)
    lessons = learn_from(network, codec, pairs_to_learn_from(how.data, how.seed, how.quick), how.seed)
    for size in sizes:
        small, path = pruned(network, energies, size), out / f"static-{size}.safetensors"
        learn_(small, network, lessons, how.of(f"static-{size}", Budgets(1.0)))
        write_rival(path, small)
        console.print(f"wrote {path}")
    for budget in single:
        console.print(f"wrote {_single_budget(out, network, lessons, how, budget)}")


def _single_budget(out: Path, original: GatedEncoder, lessons: Lessons, how: RivalTraining, budget: float) -> Path:
    """Trained like the package, with this budget in place of all smaller than the full one."""
    name = f"single-budget-{budget:g}"
    network = minilm_embedder.gated_copy(original, lessons)
    learn_(network, original, lessons, how.of(name, Budgets(budget, budget)))
    described = minilm_embedder.manifest(name, network, f"trained for budget {budget:g} only")
    return minilm_embedder.package(described, original, network, (budget,), how.quick, out / "packages")


@torch.no_grad()
def unit_energies(network: GatedEncoder, batches: Sequence[Inputs]) -> list[Tensor]:
    """For each layer [units]: how much the block's output varies because of the unit, in squared length."""
    layers = [layer for layer in network.layers if isinstance(layer, EncoderLayer)]
    energies = [torch.zeros(layer.ffn.num_units) for layer in layers]

    def observe(index: int) -> Any:
        def hook(ffn: Any, args: tuple[Any, ...]) -> None:
            deviation = ffn.unit_values(args[0]) - ffn.mean
            energies[index] += (deviation * ffn.down.weight.norm(dim=0)).square().sum(0)

        return hook

    handles = [layer.ffn.register_forward_pre_hook(observe(i)) for i, layer in enumerate(layers)]
    try:
        for inputs in batches:
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return energies


@torch.no_grad()
def pruned(network: GatedEncoder, energies: Sequence[Tensor], units: int) -> GatedEncoder:
    """The `units` units of most energy in each layer; the others are replaced by their means, folded into the bias."""
    small = GatedEncoder(replace(network.config, num_units=units)).eval()
    state = {name: value for name, value in network.state_dict().items() if ".ffn." not in name}
    small.load_state_dict(small.state_dict() | state)
    for layer, source, energy in zip(small.layers, network.layers, energies, strict=True):
        assert isinstance(layer, EncoderLayer) and isinstance(source, EncoderLayer)
        order = energy.argsort(descending=True)
        kept, dropped = order[:units].sort().values, order[units:]
        up, down = source.ffn.up, source.ffn.down
        layer.ffn.up.weight.copy_(up.weight[kept])
        layer.ffn.up.bias.copy_(up.bias[kept])
        layer.ffn.down.weight.copy_(down.weight[:, kept])
        layer.ffn.down.bias.copy_(down.bias + down.weight[:, dropped] @ source.ffn.mean[dropped])
        layer.ffn_norm.load_state_dict(source.ffn_norm.state_dict())
    return small


def _training_free(out: Path, codec: TextCodec, texts: Sequence[str], quick: bool) -> Path:
    """What `swan gate` makes of the encoder in its padded form, from texts of one length."""
    tokens = [codec.encode_texts([text])[1] for text in texts]
    longest = 16 if quick else GATED_TOKENS
    long = [ids[:longest] for ids in tokens if len(ids) >= longest][: 8 if quick else 192]
    columns = {"ids": torch.stack(long).numpy(), "valid": np.ones((len(long), longest), dtype=np.bool_)}
    source = DenseSource("models.dense:padded_encoder", out / "dense.safetensors", asdict(GatedEncoderConfig()))
    settings = GateSettings(RANK, budgets=(0.5,) if quick else (0.2, 0.3, 0.5, 1.0))
    return gate_package("training-free", source, columns, settings, out / "packages")[0]
