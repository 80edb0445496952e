"""Training of the Fashion-MNIST networks: dense ones, and gated ones by distillation over many budgets at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.recipes.augment import augment
from models.recipes.fashion_data import Splits, accuracy
from models.recipes.training import TrainConfig, train
from swan_runtime.losses import batch_shaping_loss, distillation_loss
from swan_runtime.plan import SoftPlan, total_density
from swan_runtime.schedule import exponential, linear_decay

SMOOTHING = 0.05


@dataclass(frozen=True, slots=True)
class GatedTraining:
    """How one network learns all budgets: every step runs it in full and at `budgets_per_step` smaller budgets.

    low, high: served range; with two budgets a step one is `low` itself (sandwich rule). low_from, low_until: the
    lowest budget falls from low_from to low over this share of the training. temperature: of the gates, first to last.
    weight: of each smaller budget's loss. distil: share of distillation in the losses at full and at smaller budgets.
    teacher_share: how much of what the smaller budgets imitate is the dense teacher; the rest is the full budget.
    shaping: initial weight of the batch-shaping loss, gone after 15 % of the training. frozen_norms: BatchNorms keep
    the teacher's statistics, as one set must serve every budget.
    """

    train: TrainConfig
    low: float
    high: float
    temperature: tuple[float, float]
    budgets_per_step: int = 2
    low_from: float = 0.0
    low_until: float = 0.35
    weight: float = 0.5
    distil: tuple[float, float] = (0.5, 0.5)
    teacher_share: float = 0.0
    shaping: float = 0.0
    max_shift: int = 1
    frozen_norms: bool = False

    def budgets(self, done: float, source: random.Random) -> tuple[float, ...]:
        """The smaller budgets of one step."""
        low = self.low
        if self.low_from > self.low:
            low = max(self.low, exponential(done / self.low_until, self.low_from, self.low))
        between = low * (self.high / low) ** source.random()
        if self.budgets_per_step == 1:
            return (low,) if source.random() < 0.3 else (between,)
        return (low, between)


def train_dense(
    name: str,
    network: nn.Module,
    splits: Splits,
    config: TrainConfig,
    checkpoint: Path | None,
    max_shift: int,
    teacher: nn.Module | None = None,
) -> None:
    """Cross-entropy; with a teacher, half of the loss is distillation from it."""

    def loss(rows: Tensor, done: float) -> tuple[Tensor, Mapping[str, float]]:
        pixels, labels = augment(splits.pixels[rows], max_shift), splits.labels[rows]
        with torch.autocast("cpu", torch.bfloat16):
            taught = None if teacher is None else _no_grad(teacher, pixels)
            logits = network(pixels).float()
        value = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
        if taught is not None:
            value = 0.5 * value + 0.5 * distillation_loss(logits, taught)
        return value, {"accuracy": accuracy(logits, labels)}

    train(name, network, len(splits.labels), loss, config, checkpoint, evaluate(network, splits))


def train_gated(
    name: str, network: nn.Module, teacher: nn.Module, splits: Splits, how: GatedTraining, checkpoint: Path | None
) -> None:
    """Train `network`(pixels, plan) so that every budget in [low, high] and the full one work."""
    source = random.Random(how.train.seed)
    full_share, small_share = how.distil

    def loss(rows: Tensor, done: float) -> tuple[Tensor, Mapping[str, float]]:
        if how.frozen_norms:
            _freeze_norms(network)
        pixels, labels = augment(splits.pixels[rows], how.max_shift), splits.labels[rows]
        with torch.autocast("cpu", torch.bfloat16):
            taught = _no_grad(teacher, pixels)
            full = network(pixels).float()
        value = _mixed(full, labels, taught, full_share)
        target = (1 - how.teacher_share) * full.detach() + how.teacher_share * taught
        shown = {"full": accuracy(full, labels)}
        for budget in how.budgets(done, source):
            plan = SoftPlan(budget, exponential(done, *how.temperature), straight_through=True)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(pixels, plan).float()
            value = value + how.weight * _mixed(logits, labels, target, small_share)
            if (shaping := linear_decay(done, how.shaping, 0.15)) > 0:
                value = value + shaping * batch_shaping_loss(plan.traces, budget, 1 - budget)
            shown |= {"activity": float(total_density(plan.traces)), "quality": accuracy(logits, labels)}
        return value, shown

    train(name, network, len(splits.labels), loss, how.train, checkpoint, evaluate(network, splits))


def evaluate(network: nn.Module, splits: Splits, rows: int = 1000) -> Callable[[], Mapping[str, float]]:
    """Full-budget accuracy on the first held-out images, for the log of each epoch."""
    images = splits.calibration.take(slice(0, rows))

    def call() -> Mapping[str, float]:
        with torch.no_grad():
            return {"held_out": accuracy(network(torch.from_numpy(images.scaled)), images.labels.tolist())}

    return call


def _mixed(logits: Tensor, labels: Tensor, target: Tensor, distil: float) -> Tensor:
    hard = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
    return (1 - distil) * hard + distil * distillation_loss(logits, target)


def _no_grad(network: nn.Module, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network(pixels)
    return logits.float()


def _freeze_norms(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
