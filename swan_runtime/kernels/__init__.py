"""Ops that spend compute on active units only. Every op has a mask-multiply oracle and says which kernel served.

weights.py    packed once at hardening: rows per unit, transposed and tiled down matrix, folded means
reference.py  the oracle: dense, then multiply by the mask
ops.py        the public ops: mlp, glu, gated, mlp_shared, conv
lowrank.py    the low-rank gate: scores, and scores -> mask with per-row thresholds and a cap
dispatch.py   which kernel serves (rows, density, shape), and why
"""

from swan_runtime.kernels.lowrank import GateMask, lowrank_mask, lowrank_scores, threshold_mask
from swan_runtime.kernels.ops import GatedResult, KernelResult, conv, gated, glu, mlp, mlp_shared
from swan_runtime.kernels.weights import ConvWeights, Deviation, GateWeights, GluWeights, MlpWeights

__all__ = [
    "ConvWeights",
    "Deviation",
    "GateMask",
    "GateWeights",
    "GatedResult",
    "GluWeights",
    "KernelResult",
    "MlpWeights",
    "conv",
    "gated",
    "glu",
    "lowrank_mask",
    "lowrank_scores",
    "mlp",
    "mlp_shared",
    "threshold_mask",
]
