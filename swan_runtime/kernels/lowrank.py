"""The low-rank unit gate: scores, and scores -> mask with one threshold a row and a cap."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from swan_runtime.errors import InvalidInputError
from swan_runtime.kernels import reference
from swan_runtime.kernels.checks import check_finite, check_tensor
from swan_runtime.kernels.native import Library, library
from swan_runtime.kernels.native.library import NOT_FINITE, TOO_DENSE, Selection
from swan_runtime.kernels.weights import GateWeights, GluWeights, MlpWeights


class GateMask(NamedTuple):
    """mask: bool [B, F], True = active. counts: int64 [B], active units. cap_hits: rows that the cap cut down."""

    mask: Tensor
    counts: Tensor
    cap_hits: int


class NativeMask(NamedTuple):
    """As GateMask; dense: more units are active than allowed, so the block was not run."""

    mask: Tensor
    counts: Tensor
    cap_hits: int
    dense: bool


def check_gate(gate: GateWeights, inputs: int, units: int) -> None:
    """Raise InvalidInputError unless the gate belongs to a block of that size."""
    if (gate.inputs, gate.units) != (inputs, units):
        raise InvalidInputError("gate", f"{inputs} inputs, {units} units", f"{gate.inputs} inputs, {gate.units} units")


def lowrank_scores(x: Tensor, gate: GateWeights) -> Tensor:
    """x float32 [B, D] -> scores float32 [B, F]."""
    x = check_tensor(x, "x", torch.float32, (None, gate.inputs))
    loaded = library()
    if loaded is None:
        return reference.lowrank_scores(x, gate)
    scores = torch.empty(x.shape[0], gate.units)
    loaded.scores(gate, x, scores)
    return scores


def lowrank_mask(x: Tensor, gate: GateWeights, thresholds: Tensor, k_max: int | None = None) -> GateMask:
    """Gate and mask in one go. x float32 [B, D]; thresholds float32 [B]; at most k_max units a row, the top scores."""
    loaded = library()
    if loaded is None:
        return threshold_mask(lowrank_scores(x, gate), thresholds, k_max)
    x = check_tensor(x, "x", torch.float32, (None, gate.inputs))
    return GateMask(*native_mask(loaded, x, gate, thresholds, k_max)[:3])


def native_mask(
    loaded: Library,
    x: Tensor,
    gate: GateWeights,
    thresholds: Tensor,
    k_max: int | None,
    w: MlpWeights | GluWeights | None = None,
    most_active: int = 0,
    y: Tensor | None = None,
) -> NativeMask:
    """Gate and mask, and with `w` the block into y [B, O] as well, unless more than most_active units are active."""
    s = selection(thresholds, x.shape[0], gate.units, k_max, most_active)
    return native_result(loaded.gated(gate, w, x, s, y), s)


def selection(thresholds: Tensor, rows: int, units: int, k_max: int | None, most_active: int = 0) -> Selection:
    """Room for the masks of that many rows; thresholds float32 [rows]."""
    return Selection(
        check_tensor(thresholds, "thresholds", torch.float32, (rows,)),
        units if k_max is None else check_cap(k_max),
        torch.empty(rows, dtype=torch.int64),
        torch.empty(rows, units, dtype=torch.bool),
        most_active,
    )


def native_result(code: int, s: Selection) -> NativeMask:
    """What a native call's answer means. Raises InvalidInputError for scores that are not finite."""
    if code == NOT_FINITE:
        raise InvalidInputError("scores", "finite values", "NaN or Inf")
    dense = code <= TOO_DENSE
    return NativeMask(s.mask, s.counts, TOO_DENSE - code if dense else code, dense)


def check_cap(k_max: int) -> int:
    """A cap of at least 0, or InvalidInputError."""
    if k_max < 0:
        raise InvalidInputError("k_max", "at least 0", str(k_max))
    return k_max


def capped_mask(scores: Tensor, thresholds: Tensor, caps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As threshold_mask with a cap a row, caps int64 [B] -> (mask, counts, hits), each a row; hits int64."""
    mask, counts, _ = threshold_mask(scores, thresholds)
    over = counts > caps
    for row in over.nonzero().flatten().tolist():
        one = threshold_mask(scores[row : row + 1], thresholds[row : row + 1], int(caps[row]))
        mask[row], counts[row] = one.mask[0], one.counts[0]
    return mask, counts, over.to(torch.int64)


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
    over = counts > check_cap(k_max)
    for row in over.nonzero().flatten().tolist():
        # A stable sort keeps exactly k_max also among equal scores: the lower index wins.
        keep = scores[row].sort(descending=True, stable=True).indices[:k_max]
        mask[row] = False
        mask[row, keep] = True
    return GateMask(mask, counts.clamp(max=k_max), int(over.sum()))
