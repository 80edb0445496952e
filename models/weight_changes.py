"""Weights fine-tuned from public ones, kept as what changed: int8 steps of a power of two for each row of a matrix.

A quarter of the size of the weights themselves; and exact: every machine adds up the same float32 numbers, so that a
package's fingerprint holds everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

STEPS, EXPONENTS = ".change", ".change_exponent"
LARGEST = 127


def changes_of(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `tuned` changes: matrices in int8 steps, other tensors as they are; equal ones are left out, gates never."""
    changes: dict[str, Tensor] = {}
    for name, value in tuned.items():
        if ".gate." not in name and name in base and torch.equal(base[name], value):
            continue
        if name in base and value.dim() == 2 and ".gate." not in name:
            changes |= _steps(name, value - base[name])
        else:
            changes[name] = value.half() if ".gate." in name and value.dim() == 2 else value
    return changes


def changed(base: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `changes` gives: float32, ready to be loaded over the base."""
    out: dict[str, Tensor] = {}
    for name, value in changes.items():
        if name.endswith(STEPS):
            name = name.removesuffix(STEPS)
            out[name] = base[name] + _difference(value, changes[name + EXPONENTS])
        elif not name.endswith(EXPONENTS):
            out[name] = value.float()
    return out


def _steps(name: str, difference: Tensor) -> dict[str, Tensor]:
    """difference [rows, columns] -> the smallest power of two per row at which int8 reaches its largest element."""
    largest = difference.abs().amax(1).clamp_min(2.0**-100)
    exponents = torch.ceil(torch.log2(largest / LARGEST)).to(torch.int8)
    steps = np.rint(np.ldexp(difference.numpy(), -exponents.numpy().astype(np.int32)[:, None]))
    return {name + STEPS: torch.from_numpy(steps.astype(np.int8)), name + EXPONENTS: exponents}


def _difference(steps: Tensor, exponents: Tensor) -> Tensor:
    return torch.from_numpy(np.ldexp(steps.numpy().astype(np.float32), exponents.numpy().astype(np.int32)[:, None]))
