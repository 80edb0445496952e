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
    if (
        isinstance(value, Tensor)
        and value.dtype is dtype
        and value.dim() == len(shape)
        and all(want is None or want == got for want, got in zip(shape, value.shape, strict=True))
        and value.device.type == "cpu"
    ):
        return value if value.is_contiguous() else value.contiguous()
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    raise InvalidInputError(field, f"{str(dtype).removeprefix('torch.')} [{sizes}] on cpu", describe(value))


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
