"""Ops that spend compute on active units only. Every op has a mask-multiply oracle and says which kernel served.

weights.py    packed once at hardening: rows per unit, transposed and tiled down matrix, folded means
reference.py  the oracle: dense, then multiply by the mask
ops.py        the public ops: mlp, glu, gated, mlp_shared, conv
magnitude.py  ops whose scores are values that exist anyway: cats_gated, sparse_gated
lowrank.py    the low-rank gate: scores, and scores -> mask with per-row thresholds and a cap
dispatch.py   which kernel serves (rows, density, shape), and why
"""

from swan_runtime.kernels.conv_weights import ConvWeights
from swan_runtime.kernels.lowrank import GateMask, lowrank_mask, lowrank_scores, threshold_mask
from swan_runtime.kernels.magnitude import cats, cats_branch, cats_gated, magnitude_mask, sparse_gated, sparse_inputs
from swan_runtime.kernels.magnitude_weights import CatsWeights, InputWeights
from swan_runtime.kernels.ops import (
    GatedResult,
    KernelResult,
    SharedResult,
    conv,
    gated,
    gated_shared,
    glu,
    mlp,
    mlp_shared,
)
from swan_runtime.kernels.weights import Deviation, GateWeights, GluWeights, MlpWeights

__all__ = [
    "CatsWeights",
    "ConvWeights",
    "Deviation",
    "GateMask",
    "GateWeights",
    "GatedResult",
    "GluWeights",
    "InputWeights",
    "KernelResult",
    "MlpWeights",
    "SharedResult",
    "cats",
    "cats_branch",
    "cats_gated",
    "conv",
    "gated",
    "gated_shared",
    "glu",
    "lowrank_mask",
    "lowrank_scores",
    "magnitude_mask",
    "mlp",
    "mlp_shared",
    "sparse_gated",
    "sparse_inputs",
    "threshold_mask",
]
