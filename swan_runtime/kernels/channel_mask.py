"""The pooled channel gate in one native call: scores, thresholds, caps and meta-ACON's switch for every sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from swan_runtime.errors import InvalidInputError
from swan_runtime.kernels.channel_gate import ChannelGateWeights
from swan_runtime.kernels.checks import check_images, check_tensor
from swan_runtime.kernels.native.library import NOT_FINITE, Library
from swan_runtime.kernels.native.structures import ChannelChoice


class ChannelMask(NamedTuple):
    """mask bool [B, K]; counts and hits (0 or 1): one a sample; beta [B, K] or None."""

    mask: Tensor
    counts: list[int]
    hits: list[int]
    beta: Tensor | None


def native_channel_mask(
    loaded: Library, x: Tensor, gate: ChannelGateWeights, thresholds: Tensor, caps: Sequence[int] | None = None
) -> ChannelMask:
    """x float32 [B, C, H, W], contiguous or channels last; thresholds [B]; caps: at most that many channels a sample.

    Raises InvalidInputError for scores that are not finite.
    """
    samples, units = x.shape[0], gate.units
    x = check_images(x, "x", gate.inputs)
    thresholds = check_tensor(thresholds, "thresholds", torch.float32, (samples,))
    numbers = torch.full((3, samples), units, dtype=torch.int64)  # caps, counts, hits
    if caps is not None:
        numbers[0] = torch.tensor(caps, dtype=torch.int64)
    mask = torch.empty(samples, units, dtype=torch.bool)
    beta = None if gate.switch is None else torch.empty(samples, units)
    start, row = numbers.data_ptr(), samples * 8
    choice = ChannelChoice(
        thresholds=thresholds.data_ptr(), k_max=start, counts=start + row, hits=start + 2 * row, mask=mask.data_ptr()
    )
    if loaded.channel_gate(gate, x, choice, beta) == NOT_FINITE:
        raise InvalidInputError("scores", "finite values", "NaN or infinity")
    _, counts, hits = numbers.tolist()
    return ChannelMask(mask, counts, hits, beta)
