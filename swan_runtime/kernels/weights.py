"""Packed weights, frozen, built once at hardening.

Layout rule: the skipped axis is the outer, contiguous one, so that a unit that does not run costs no memory traffic.
Means are folded here: an off unit contributes its calibrated mean, which is y = (b + W mean) + sum_active (h - mean) W.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from swan_runtime.kernels.activations import check_activation
from swan_runtime.kernels.packing import TILE, HalfMatrices, frozen, halves, pack_down, rounded


@dataclass(frozen=True, eq=False)
class LinearWeights:
    """A plain linear layer: matrix [F, D], bias [F]."""

    matrix: Tensor
    bias: Tensor
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def pack(matrix: Tensor, bias: Tensor | None) -> LinearWeights:
        """From an nn.Linear's weight and bias; None: zeros."""
        rows = frozen(matrix, "matrix", (None, None))
        return LinearWeights(rows, frozen(bias, "bias", (rows.shape[0],)))


@dataclass(frozen=True, eq=False)
class MlpWeights:
    """y = down_bias + sum over active units j of (act(up[j] . x + up_bias[j]) - mean[j]) * down_t[j].

    up [F, D], up_bias [F], down_t [F, O], down_bias [O] with the means folded in, mean [F].
    down_tiled: the same down matrix for the many-rows kernels, see tile_columns. half: None, or the same matrices in
    bfloat16; the float32 ones are then rounded to it.
    """

    up: Tensor
    up_bias: Tensor
    down_t: Tensor
    down_bias: Tensor
    mean: Tensor
    activation: str
    down_tiled: Tensor = field(repr=False)
    half: HalfMatrices | None = field(default=None, repr=False)
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def pack(
        up: Tensor,
        up_bias: Tensor | None,
        down: Tensor,
        down_bias: Tensor | None,
        mean: Tensor | None = None,
        *,
        activation: str,
        half: bool = False,
    ) -> MlpWeights:
        """From two nn.Linear: up [F, D], down [O, F], biases as they are (not folded), mean [F] or None for zero."""
        up = rounded(frozen(up, "up", (None, None)), half)
        units = up.shape[0]
        second = pack_down(down, down_bias, mean, units, half)
        return MlpWeights(
            up=up,
            up_bias=frozen(up_bias, "up_bias", (units,)),
            activation=check_activation(activation),
            half=halves(up, None, second, half),
            **second._asdict(),
        )

    @property
    def units(self) -> int:
        return self.up.shape[0]

    @property
    def inputs(self) -> int:
        return self.up.shape[1]

    @property
    def outputs(self) -> int:
        return self.down_t.shape[1]


@dataclass(frozen=True, eq=False)
class GluWeights:
    """As MlpWeights with a gated unit: act(gate[j] . x + gate_bias[j]) * (up[j] . x + up_bias[j]). gate, up [F, D]."""

    gate: Tensor
    gate_bias: Tensor
    up: Tensor
    up_bias: Tensor
    down_t: Tensor
    down_bias: Tensor
    mean: Tensor
    activation: str
    down_tiled: Tensor = field(repr=False)
    half: HalfMatrices | None = field(default=None, repr=False)
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def pack(
        gate: tuple[Tensor, Tensor | None],
        up: tuple[Tensor, Tensor | None],
        down: tuple[Tensor, Tensor | None],
        mean: Tensor | None = None,
        *,
        activation: str,
        half: bool = False,
    ) -> GluWeights:
        """From three nn.Linear as (weight, bias or None): gate, up [F, D], down [O, F]; mean [F] or None for zero."""
        gate_matrix = rounded(frozen(gate[0], "gate", (None, None)), half)
        units, inputs = gate_matrix.shape
        matrix = rounded(frozen(up[0], "up", (units, inputs)), half)
        second = pack_down(*down, mean, units, half)
        return GluWeights(
            gate=gate_matrix,
            gate_bias=frozen(gate[1], "gate_bias", (units,)),
            up=matrix,
            up_bias=frozen(up[1], "up_bias", (units,)),
            activation=check_activation(activation),
            half=halves(gate_matrix, matrix, second, half),
            **second._asdict(),
        )

    @property
    def units(self) -> int:
        return self.up.shape[0]

    @property
    def inputs(self) -> int:
        return self.up.shape[1]

    @property
    def outputs(self) -> int:
        return self.down_t.shape[1]


@dataclass(frozen=True, eq=False)
class Deviation:
    """Turns a predicted pre-activation z into |activation(z) - center| * norm, each [F]."""

    activation: str
    center: Tensor
    norm: Tensor
    center_padded: Tensor = field(repr=False)
    norm_padded: Tensor = field(repr=False)

    @staticmethod
    def pack(activation: str, center: Tensor, norm: Tensor) -> Deviation:
        center = frozen(center, "center", (None,))
        norm = frozen(norm, "norm", (center.shape[0],))
        more = -center.shape[0] % TILE
        return Deviation(check_activation(activation), center, norm, F.pad(center, (0, more)), F.pad(norm, (0, more)))


@dataclass(frozen=True, eq=False)
class GateWeights:
    """The low-rank unit gate: scores = (x p) q^T + bias. p [D, r], q_t [r, F] (transposed once), bias [F].

    deviation: None, or what turns those predictions into deviation scores.
    """

    p: Tensor
    q_t: Tensor
    bias: Tensor
    p_padded: Tensor = field(repr=False)  # rank padded with zeros to a multiple of 16
    q_padded: Tensor = field(repr=False)  # units padded with zeros to a multiple of 128
    bias_padded: Tensor = field(repr=False)
    deviation: Deviation | None = None
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def pack(p: Tensor, q: Tensor, bias: Tensor | None = None, deviation: Deviation | None = None) -> GateWeights:
        """p [D, r], q [F, r], bias [F] or None for zero."""
        projection = frozen(p, "p", (None, None))
        rows = frozen(q, "q", (None, projection.shape[1]))
        bias = frozen(bias, "bias", (rows.shape[0],))
        q_t = rows.t().contiguous()
        more_rank, more_units = -projection.shape[1] % 16, -rows.shape[0] % TILE
        return GateWeights(
            projection,
            q_t,
            bias,
            F.pad(projection, (0, more_rank)),
            F.pad(q_t, (0, more_units)),
            F.pad(bias, (0, more_units)),
            deviation,
        )

    @property
    def rank(self) -> int:
        return self.p.shape[1]

    @property
    def units(self) -> int:
        return self.q_t.shape[1]

    @property
    def inputs(self) -> int:
        return self.p.shape[0]
