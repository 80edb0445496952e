"""Training of the Fashion-MNIST networks: dense ones, and gated ones that learn every budget in one pass a step."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.recipes.fashion_data import Splits, accuracy
from models.recipes.lessons import Lessons
from models.recipes.training import TrainConfig, train
from swan_runtime.layers import gated_layers
from swan_runtime.losses import batch_shaping_loss, distillation_loss
from swan_runtime.plan import SoftPlan, total_density
from swan_runtime.schedule import exponential, linear_decay

SMOOTHING = 0.05


@dataclass(frozen=True, slots=True)
class GatedTraining:
    """How one network learns all budgets: the rows of every batch are dealt out over several budgets, in one pass.

    That is what a served batch looks like; and BatchNorm learns one set of statistics, of that mixture, for all.
    low, high: the budgets besides the full one. Of a batch, `full_share` of the rows run in full; the others form three
    equal groups: one at `low` (sandwich rule), two at budgets drawn log-uniformly between. low_from, low_until: the
    lowest budget falls from low_from to low over this share of the training. temperature: of the gates, first to last.
    distil: share of distillation in the loss. shaping: initial weight of the batch-shaping loss, gone after 15 %.
    """

    train: TrainConfig
    low: float
    high: float = 1.0
    full_share: float = 0.25
    low_from: float = 0.5
    low_until: float = 0.3
    temperature: tuple[float, float] = (1.0, 0.3)
    distil: float = 0.7
    shaping: float = 0.0

    def budgets(self, rows: int, done: float, source: random.Random) -> Tensor:
        """The budget of each row of one batch, [rows]; full ones first, then the lowest."""
        low = self.low
        if self.low_from > low:
            low = max(low, exponential(done / self.low_until, self.low_from, low))
        full, group = int(rows * self.full_share), (rows - int(rows * self.full_share)) // 3
        between = [low * (self.high / low) ** source.random() for _ in range(2)]
        counts = (full, group, group, rows - full - 2 * group)
        return torch.tensor((1.0, low, *between)).repeat_interleave(torch.tensor(counts))


def train_dense(
    name: str,
    network: nn.Module,
    splits: Splits,
    config: TrainConfig,
    checkpoint: Path | None,
    lessons: Lessons,
    distil: float = 0.5,
) -> None:
    """Cross-entropy; with a teacher in the lessons, `distil` of the loss is distillation from it."""

    def loss(rows: Tensor, done: float) -> tuple[Tensor, Mapping[str, float]]:
        pixels, labels, taught = lessons(rows)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(pixels).float()
        return _mixed(logits, labels, taught, distil), {"accuracy": accuracy(logits, labels)}

    train(name, network, len(splits.labels), loss, config, checkpoint, evaluate(network, splits))


def train_gated(
    name: str, network: nn.Module, splits: Splits, how: GatedTraining, checkpoint: Path | None, lessons: Lessons
) -> None:
    """Train `network`(pixels, plan) so that every budget in [low, high] and the full one work."""
    source = random.Random(how.train.seed)
    learn_means_(network)

    def loss(rows: Tensor, done: float) -> tuple[Tensor, Mapping[str, float]]:
        pixels, labels, taught = lessons(rows)
        budgets = how.budgets(len(rows), done, source)
        plan = SoftPlan(budgets, exponential(done, *how.temperature), straight_through=True)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(pixels, plan).float()
        value = _mixed(logits, labels, taught, how.distil)
        if (shaping := linear_decay(done, how.shaping, 0.15)) > 0:
            mean = float(budgets.mean())
            value = value + shaping * batch_shaping_loss(plan.traces, mean, 1 - mean)
        full, lowest = budgets == 1.0, budgets == budgets.min()
        shown = {
            "activity": float(total_density(plan.traces).detach()),
            "lowest": accuracy(logits[lowest], labels[lowest]),
        }
        return value, shown | ({"full": accuracy(logits[full], labels[full])} if full.any() else {})

    train(name, network, len(splits.labels), loss, how.train, checkpoint, evaluate(network, splits))


def learn_means_(network: nn.Module) -> None:
    """Make what an off unit contributes a parameter: it must follow the weights. The state_dict stays what it is."""
    for layer in gated_layers(network).values():
        mean = layer.mean.detach().clone()
        del layer.mean
        layer.mean = nn.Parameter(mean)


def evaluate(network: nn.Module, splits: Splits, rows: int = 1000) -> Callable[[], Mapping[str, float]]:
    """Full-budget accuracy on the first held-out images, for the log of each epoch."""
    images = splits.calibration.take(slice(0, rows))

    def call() -> Mapping[str, float]:
        with torch.no_grad():
            return {"held_out": accuracy(network(torch.from_numpy(images.scaled())), images.labels.tolist())}

    return call


def _mixed(logits: Tensor, labels: Tensor, taught: Tensor | None, distil: float) -> Tensor:
    hard = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
    return hard if taught is None else (1 - distil) * hard + distil * distillation_loss(logits, taught)
