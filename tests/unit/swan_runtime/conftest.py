"""Small gated networks and data that several test modules build, handed out by the `networks` fixture."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from swan_runtime.conv import GatedConvBlock
from swan_runtime.layers import GatedFFN, GatedGLU, GatedMLP, name_layers_
from swan_runtime.plan import Plan


class TinyMLP(nn.Module):
    """Two gated blocks of different shapes and an ungated head."""

    def __init__(self, rank: int = 4) -> None:
        super().__init__()
        self.first = GatedMLP(20, 48, 24, rank)
        self.second = GatedMLP(24, 32, 16, rank, activation="gelu")
        self.head = nn.Linear(16, 5)
        name_layers_(self)

    def forward(self, x: Tensor, plan: Plan | None = None) -> Tensor:
        out: Tensor = self.head(torch.relu(self.second(torch.relu(self.first(x, plan)), plan)))
        return out


class TinyConv(nn.Module):
    def __init__(self, activation: str = "relu") -> None:
        super().__init__()
        self.a = GatedConvBlock(3, 8, 1, activation)
        self.b = GatedConvBlock(8, 12, 2, activation)
        self.head = nn.Linear(12, 4)
        name_layers_(self)

    def forward(self, x: Tensor, plan: Plan | None = None) -> Tensor:
        out: Tensor = self.head(self.b(self.a(x, plan), plan).mean((2, 3)))
        return out


class TinyEncoder(nn.Module):
    """A mask per token, then one per request, then a GLU; mean over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.token = GatedFFN(16, 40, 4)
        self.request = GatedFFN(16, 40, 4, granularity="request")
        self.glu = GatedGLU(16, 24)
        name_layers_(self)

    def forward(self, x: Tensor, lengths: list[int] | None = None, plan: Plan | None = None) -> Tensor:
        x = x + self.token(x, plan, lengths)
        x = x + self.request(x, plan, lengths)
        return x + self.glu(x, plan, lengths)


def blobs(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n points of 5 noisy clusters in 20 dimensions, with labels."""
    source = torch.Generator().manual_seed(seed)
    centers = torch.randn(5, 20, generator=torch.Generator().manual_seed(7)) * 1.5
    labels = torch.randint(0, 5, (n,), generator=source)
    return centers[labels] + torch.randn(n, 20, generator=source), labels


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)  # these tensors are tiny, and threads that spin slow down everybody on a shared machine


@pytest.fixture
def networks() -> SimpleNamespace:
    torch.manual_seed(0)
    return SimpleNamespace(TinyMLP=TinyMLP, TinyConv=TinyConv, TinyEncoder=TinyEncoder, blobs=blobs)
