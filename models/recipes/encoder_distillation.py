"""Second stage of minilm-embedder: the whole encoder learns to give the original's embeddings at every budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.gated_encoder import GatedEncoder
from models.recipes.encoder_blocks import EVERY, Budgets, group_budgets
from models.recipes.encoder_lessons import Lessons, encoder_layers
from models.recipes.training import TrainConfig, train
from swan_runtime.plan import SoftPlan, total_density
from swan_runtime.schedule import exponential


@dataclass(frozen=True, slots=True)
class Distillation:
    """budgets: the small ones. groups: budgets in a step, each for as many pairs.

    temperature: of gates, first to last. sharpness: softmax temperature of cosines, as the original was trained with
    (scale 20). Weights of the loss: near, 1 - cosine to the original; agree, KL of the similarities to all of the
    lessons' texts, which is what retrieval sees; match, cross-entropy of the right partner among them.
    """

    train: TrainConfig
    budgets: Budgets = EVERY
    groups: int = 4
    temperature: tuple[float, float] = (0.5, 0.2)
    sharpness: float = 0.05
    near: float = 2.0
    agree: float = 1.0
    match: float = 0.25


def distil_(
    network: GatedEncoder, lessons: Lessons, how: Distillation, checkpoint: Path | None,
    each_epoch: Callable[[], Mapping[str, float]] = dict,
) -> None:  # fmt: skip
    """Trains gates, feed-forward blocks and norms; embeddings and attention stay the original's."""
    network.requires_grad_(False)
    for layer in encoder_layers(network):
        for part in (layer.ffn, layer.ffn_norm, layer.attention_norm):
            part.requires_grad_(True)
    shorts, longs = lessons.embeddings.chunk(2)
    gated = how.budgets.low < 1.0

    def loss(rows: Tensor, done: float) -> tuple[Tensor, Mapping[str, float]]:
        texts = [lessons.ids[i] for i in (*rows.tolist(), *(rows + lessons.num_pairs).tolist())]
        budgets = group_budgets(len(rows), how.budgets, how.groups).repeat(2)
        plan = SoftPlan(budgets, exponential(done, *how.temperature), straight_through=True) if gated else None
        # The plain formula of attention is the fastest in bfloat16 for texts this short.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            got = network([len(ids) for ids in texts], torch.cat(texts), plan).float()
        wanted = torch.cat((shorts[rows], longs[rows]))
        cosine = (got * wanted).sum(1)
        agree, match = zip(
            *(_retrieval(mine, its, bank, rows, how.sharpness)
              for mine, its, bank in zip(got.chunk(2), wanted.chunk(2), (longs, shorts), strict=True)),
            strict=True,
        )  # fmt: skip
        value = how.near * (1 - cosine).mean() + how.agree * sum(agree) / 2 + how.match * sum(match) / 2
        seen = cosine.detach()
        shown = {
            "activity": float(total_density(plan.traces).detach()) if plan else 1.0,
            "full": float(seen[budgets == 1.0].mean()),
            "lowest": float(seen[budgets == budgets.min()].mean()),
        }
        return value, shown

    train("encoder", network, lessons.num_pairs, loss, how.train, checkpoint, each_epoch)


def _retrieval(got: Tensor, wanted: Tensor, bank: Tensor, partner: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
    """(KL, cross-entropy) of `got` [n, D] looked up in the original's embeddings of all partners, bank [N, D]."""
    mine = F.log_softmax(got @ bank.T / sharpness, dim=1)
    its = F.log_softmax(wanted @ bank.T / sharpness, dim=1)
    return F.kl_div(mine, its, log_target=True, reduction="batchmean"), F.nll_loss(mine, partner)
