"""Argument checks shared by the ops: each failure names the field, what was expected and what was got."""

from __future__ import annotations

import torch
from torch import Tensor

from swan_runtime.errors import InvalidInputError


def describe(value: object) -> str:
    """A short text for what was got instead."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)} on {value.device}"
    return repr(value)


def check_tensor(value: Tensor, field: str, dtype: torch.dtype, shape: tuple[int | None, ...]) -> Tensor:
    """A contiguous CPU tensor of that dtype and shape (None = any length), or InvalidInputError."""
    if isinstance(value, Tensor) and value.dtype is dtype and value.is_cpu and _fits(value.shape, shape):
        return value if value.is_contiguous() else value.contiguous()
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    raise InvalidInputError(field, f"{str(dtype).removeprefix('torch.')} [{sizes}] on cpu", describe(value))


def _fits(got: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    if len(got) != len(wanted):
        return False
    # A loop, not all(): a generator takes twice as long, and this runs at every call.
    for size, want in zip(got, wanted, strict=True):  # noqa: SIM110
        if want is not None and size != want:
            return False
    return True


def check_images(value: Tensor, field: str, channels: int) -> Tensor:
    """A float32 CPU tensor [B, channels, H, W], contiguous in that order or with its channels last."""
    last = isinstance(value, Tensor) and value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
    if last and value.dtype is torch.float32 and value.shape[1] == channels and value.device.type == "cpu":
        return value
    return check_tensor(value, field, torch.float32, (None, channels, None, None))


def check_finite(value: Tensor, field: str) -> None:
    """Raise InvalidInputError if any element is NaN or infinite."""
    if not bool(torch.isfinite(value).all()):
        raise InvalidInputError(field, "finite values", "NaN or Inf")


def check_threads(threads: int) -> int:
    """A thread limit of at least 1, or InvalidInputError."""
    if threads < 1:
        raise InvalidInputError("threads", "at least 1", str(threads))
    return threads
