"""The pooled channel gate in one native call: scores, thresholds, caps and meta-ACON's switch for every sample."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof, c_int64
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
    # caps, counts, hits: an array of C costs a tenth of a small tensor, and this is a part of a small block's time
    numbers = (c_int64 * (3 * samples))(*([units] * samples if caps is None else caps))
    mask = torch.empty(samples, units, dtype=torch.bool)
    beta = None if gate.switch is None else torch.empty(samples, units)
    start, row = addressof(numbers), samples * 8
    choice = ChannelChoice(
        thresholds=thresholds.data_ptr(), k_max=start, counts=start + row, hits=start + 2 * row, mask=mask.data_ptr()
    )
    if loaded.channel_gate(gate, x, choice, beta) == NOT_FINITE:
        raise InvalidInputError("scores", "finite values", "NaN or infinity")
    return ChannelMask(mask, numbers[samples : 2 * samples], numbers[2 * samples :], beta)
