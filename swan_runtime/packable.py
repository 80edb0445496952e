"""A layer whose weights a hardened model keeps packed for the kernels, for as long as they cannot change."""

from __future__ import annotations

from typing import Any, Generic, Self, TypeVar

from torch import nn

Packed = TypeVar("Packed")


class Packable(nn.Module, Generic[Packed]):
    """Base or mixin, to be named before nn.Linear and the like.

    packed: set by harden_; never part of the state_dict.
    """

    packed: Packed | None = None

    def train(self, mode: bool = True) -> Self:
        """Training changes weights, so it drops the packed copy."""
        if mode:
            self.packed = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no packed weights: they hold pointers into the original's memory."""
        return {**self.__dict__, "packed": None}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.packed = None
        super()._load_from_state_dict(*args, **kwargs)  # type: ignore[no-untyped-call]
