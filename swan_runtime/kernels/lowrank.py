"""The low-rank unit gate: scores, and scores -> mask with one threshold a row and a cap."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from swan_runtime.errors import InvalidInputError
from swan_runtime.kernels import reference
from swan_runtime.kernels.checks import check_finite, check_tensor
from swan_runtime.kernels.weights import GateWeights


class GateMask(NamedTuple):
    """mask: bool [B, F], True = active. counts: int64 [B], active units. cap_hits: rows that the cap cut down."""

    mask: Tensor
    counts: Tensor
    cap_hits: int


def lowrank_scores(x: Tensor, gate: GateWeights) -> Tensor:
    """x float32 [B, D] -> scores float32 [B, F]."""
    return reference.lowrank_scores(check_tensor(x, "x", torch.float32, (None, gate.inputs)), gate)


def lowrank_mask(x: Tensor, gate: GateWeights, thresholds: Tensor, k_max: int | None = None) -> GateMask:
    """Gate and mask in one go. x float32 [B, D]; thresholds float32 [B]; at most k_max units a row, the top scores."""
    return threshold_mask(lowrank_scores(x, gate), thresholds, k_max)


def threshold_mask(scores: Tensor, thresholds: Tensor, k_max: int | None = None) -> GateMask:
    """scores float32 [B, F] > thresholds float32 [B]. A row over the cap k_max keeps its top scores and is counted.

    Raises InvalidInputError for NaN or Inf scores: NaN compares false and would pass for a cheap row.
    """
    scores = check_tensor(scores, "scores", torch.float32, (None, None))
    thresholds = check_tensor(thresholds, "thresholds", torch.float32, (scores.shape[0],))
    check_finite(scores, "scores")
    mask = scores > thresholds[:, None]
    counts = mask.sum(dim=1)
    if k_max is None:
        return GateMask(mask, counts, 0)
    if k_max < 0:
        raise InvalidInputError("k_max", "at least 0", str(k_max))
    over = counts > k_max
    for row in over.nonzero().flatten().tolist():
        # A stable sort keeps exactly k_max also among equal scores: the lower index wins.
        keep = scores[row].sort(descending=True, stable=True).indices[:k_max]
        mask[row] = False
        mask[row, keep] = True
    return GateMask(mask, counts.clamp(max=k_max), int(over.sum()))
