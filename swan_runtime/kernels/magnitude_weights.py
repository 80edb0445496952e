"""Packed weights of magnitude-gated layers: CATS (a dense branch decides) and TEAL / R-Sparse (the inputs decide)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from swan_runtime.kernels.activations import check_activation
from swan_runtime.kernels.packing import HalfMatrices, fold, frozen, halves, pack_down
from swan_runtime.kernels.weights import LinearWeights, MlpWeights


@dataclass(frozen=True, eq=False)
class CatsWeights:
    """y = down_bias + sum over active units j of (act(branch[j] . x) * (up[j] . x + up_bias[j]) - mean[j]) * down_t[j].

    branch [F, D] runs densely; a unit's score is |act(branch)| * weight. block: up and down, with
    the identity as activation, whose values the branch scales.
    """

    branch: LinearWeights
    weight: Tensor
    activation: str
    block: MlpWeights

    @staticmethod
    def pack(
        branch: tuple[Tensor, Tensor | None],
        up: tuple[Tensor, Tensor | None],
        down: tuple[Tensor, Tensor | None],
        mean: Tensor | None = None,
        weight: Tensor | None = None,
        *,
        activation: str,
        half: bool = False,
    ) -> CatsWeights:
        """From three nn.Linear as (weight, bias or None); mean, weight [F], None for zeros and ones.

        half: up and down, which skip, in bfloat16; the dense branch stays float32.
        """
        block = MlpWeights.pack(*up, *down, mean, activation="identity", half=half)
        matrix = frozen(branch[0], "branch", (block.units, block.inputs))
        bias = frozen(branch[1], "branch_bias", (block.units,))
        return CatsWeights(
            branch=LinearWeights(matrix, bias),
            weight=block.mean.new_ones(block.units) if weight is None else frozen(weight, "weight", (block.units,)),
            activation=check_activation(activation),
            block=block,
        )


@dataclass(frozen=True, eq=False)
class InputWeights:
    """A linear layer whose units are its inputs: y = down_bias + sum over active i of (x[i] - mean[i]) * down_t[i].

    A score is |x[i]| * weight[i]. path: None, or R-Sparse's right^T [F, r] and left^T [r, O], which serve what is off.
    """

    down_t: Tensor
    down_bias: Tensor
    mean: Tensor
    weight: Tensor
    path: tuple[Tensor, Tensor] | None
    down_tiled: Tensor = field(repr=False)
    half: HalfMatrices | None = field(default=None, repr=False)
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def pack(
        linear: tuple[Tensor, Tensor | None],
        mean: Tensor | None = None,
        weight: Tensor | None = None,
        path: tuple[Tensor, Tensor] | None = None,
        *,
        half: bool = False,
    ) -> InputWeights:
        """linear: weight [O, F] and bias; mean, weight [F]; path: (left [O, r], right [r, F]) or None."""
        units = linear[0].shape[-1]
        down = pack_down(*linear, mean, units, half)
        turned = None
        if path is not None:
            left = frozen(path[0], "left", (linear[0].shape[0], None))
            right = frozen(path[1], "right", (left.shape[1], units))
            turned = right.t().contiguous(), left.t().contiguous()
        return InputWeights(
            weight=down.mean.new_ones(units) if weight is None else frozen(weight, "weight", (units,)),
            path=turned,
            half=halves(None, None, down, half),
            **down._asdict(),
        )

    @property
    def bias(self) -> Tensor:
        """[O]: the layer's own bias, no mean folded in."""
        if "bias" not in self.cache:
            self.cache["bias"] = fold(self.down_bias, self.down_t.t(), -self.mean)
        value: Tensor = self.cache["bias"]
        return value

    @property
    def units(self) -> int:
        return self.down_t.shape[0]

    @property
    def outputs(self) -> int:
        return self.down_t.shape[1]
