"""The activations that kernels know, in torch: the meaning that every faster version is tested against."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from swan_runtime.errors import InvalidInputError

# The number is the code that the native and Numba kernels receive.
CODES: dict[str, int] = {"identity": 0, "relu": 1, "gelu": 2, "silu": 3, "acon": 4}

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu": F.silu,
}


def check_activation(name: str, allowed: tuple[str, ...] = tuple(_FUNCTIONS)) -> str:
    """Return `name` or raise InvalidInputError."""
    if name not in allowed:
        raise InvalidInputError("activation", f"one of {', '.join(allowed)}", repr(name))
    return name


def activate(x: Tensor, name: str) -> Tensor:
    """Elementwise activation; gelu is the exact one (erf)."""
    return _FUNCTIONS[check_activation(name)](x)


def acon(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor) -> Tensor:
    """ACON-C, (p1 - p2) x sigmoid(beta (p1 - p2) x) + p2 x (Ma et al., CVPR 2021, eq. 6)."""
    difference = (p1 - p2) * x
    return difference * torch.sigmoid(beta * difference) + p2 * x
