"""fashion-mlp: a multi-layer perceptron whose first, wide hidden layer is gated unit by unit (SWAN)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from swan_runtime.gate import LowRankGate
from swan_runtime.layers import GatedMLP, name_layers_
from swan_runtime.plan import Plan


@dataclass(frozen=True, slots=True)
class SwanMLPConfig:
    """in_features - hidden - hidden - num_classes. The gate skips rows of the first matrix and columns of the second.

    rank: of the gate. mean, std: of the training pixels in 0..1.
    """

    in_features: int = 784
    hidden: int = 1024
    num_classes: int = 10
    rank: int = 16
    mean: float = 0.2860
    std: float = 0.3530


class SwanMLP(nn.Module):
    """Pixels [B, 784] in 0..1 -> logits [B, 10]."""

    def __init__(self, config: SwanMLPConfig) -> None:
        super().__init__()
        self.config = config
        gate = LowRankGate(config.in_features, config.hidden, config.rank, score="deviation")
        self.block = GatedMLP(config.in_features, config.hidden, config.hidden, gate=gate)
        self.head = nn.Linear(config.hidden, config.num_classes)
        name_layers_(self)

    def forward(self, pixels: Tensor, plan: Plan | None = None) -> Tensor:
        x = (pixels - self.config.mean) / self.config.std
        logits: Tensor = self.head(F.relu(self.block(x, plan)))
        return logits


class DenseMLP(nn.Module):
    """The same network without gates, of any width: teacher and static rivals. dropout: after both hidden layers."""

    def __init__(self, config: SwanMLPConfig, dropout: float = 0.25) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.Sequential(
            nn.Linear(config.in_features, config.hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(config.hidden, config.num_classes),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.layers((pixels - self.config.mean) / self.config.std)
        return logits


def adopt_(gated: SwanMLP, dense: DenseMLP) -> SwanMLP:
    """Copy a dense network of the same size into the gated one; gates stay as they are."""
    first, second, head = (dense.layers[i] for i in (0, 3, 6))
    gated.block.up.load_state_dict(first.state_dict())
    gated.block.down.load_state_dict(second.state_dict())
    gated.head.load_state_dict(head.state_dict())
    return gated
