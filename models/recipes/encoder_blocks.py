"""First stage of minilm-embedder: each feed-forward block learns, alone, to be itself with part of its units.

The gate is fitted by regression to how much each unit matters to a request; then the block's weights are trained so
that what the gate leaves adds up to what the dense block would have said. Backpropagation stays within one block,
which makes a step about ten times cheaper than one through the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from models.gated_encoder import EncoderLayer
from models.recipes.encoder_lessons import TOKENS, BlockInputs
from models.recipes.training import TrainConfig, train
from swan_runtime.gate import LowRankGate
from swan_runtime.layers import GatedFFN
from swan_runtime.plan import LayerInfo, SoftPlan, total_density

LOWEST = 0.18
GROUPS = 8
FIT_TEXTS = 3000
RIDGE = 0.03


@dataclass(frozen=True, slots=True)
class Budgets:
    """What an encoder learns besides the full one. low = 1: nothing else, for a network without gates."""

    low: float
    high: float = 1.0


EVERY = Budgets(LOWEST)


@torch.no_grad()
def fit_request_gate_(layer: EncoderLayer, seen: BlockInputs) -> None:
    """Ridge regression, cut to the gate's rank, of each unit's deviation from its mean on the request's mean token.

    The target for unit j: root mean square over the request's tokens of (h_j - mean_j) * |down row j|.
    """
    ffn, gate = layer.ffn, layer.ffn.gate
    assert isinstance(gate, LowRankGate)
    tokens, means = seen.tokens[:FIT_TEXTS], seen.means[:FIT_TEXTS]
    hidden = torch.cat([ffn.unit_values(part.float()) for part in torch.split(tokens, 256)])  # [n, TOKENS, units]
    ffn.mean.copy_(hidden.mean((0, 1)))
    matter = ((hidden - ffn.mean) * ffn.down.weight.norm(dim=0)).square().mean(1).sqrt()
    usual, center = matter.mean(0), means.mean(0)
    inputs = (means - center).double()
    gram = inputs.T @ inputs
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    weight = torch.linalg.solve(gram + ridge, inputs.T @ (matter - usual).double()).T  # [units, D]
    spread = torch.linalg.cholesky(gram + 1e-6 * ridge)  # spreads as the inputs do, in D columns
    left = torch.linalg.svd(weight @ spread, full_matrices=False)[0][:, : gate.rank]
    unit = 1.0 / float(matter.std())  # scores of about unit spread
    project, expand = (left.T @ weight * unit).float(), left.float()
    gate.project[: len(project)].copy_(project)
    gate.expand[:, : len(project)].copy_(expand)
    gate.project[len(project) :] = 0.0
    gate.bias.copy_(usual * unit - expand @ (project @ center))
    gate.scale.copy_(gate.scores(means).std())


def train_block_(
    name: str, layer: EncoderLayer, original: GatedFFN, seen: BlockInputs, config: TrainConfig,
    checkpoint: Path | None, budgets_of: Budgets,
) -> None:  # fmt: skip
    """Distil the original block into `layer`'s under random budgets; the gate stays as it is."""
    layer.ffn.gate.requires_grad_(False)

    def after(x: Tensor, out: Tensor) -> Tensor:
        """What the next layer sees: the residual sum behind its norm."""
        normed: Tensor = layer.ffn_norm(x.float() + out.float())
        return normed

    def loss(rows: Tensor, done: float) -> tuple[Tensor, Mapping[str, float]]:
        x, budgets = seen.tokens[rows], group_budgets(len(rows), budgets_of)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                wanted = original(x.flatten(0, 1)).view_as(x)
            plan = SoftPlan(budgets, straight_through=True)
            got = _gated(layer, x, seen.means[rows], plan)
        target = after(x, wanted)
        error = (after(x, got) - target).square().mean((1, 2)) / target.var()
        full = budgets == 1.0
        shown = {"activity": float(total_density(plan.traces)), "full": float(error.detach()[full].mean())}
        return (error * budgets.sqrt()).mean(), shown | {
            "lowest": float(error.detach()[budgets == budgets.min()].mean())
        }

    layer.ffn_norm.requires_grad_(False)
    try:
        train(name, layer.ffn, len(seen.tokens), loss, config, checkpoint)
    finally:
        layer.ffn.gate.requires_grad_(True)
        layer.ffn_norm.requires_grad_(True)


def group_budgets(rows: int, budgets: Budgets, groups: int = GROUPS) -> Tensor:
    """[rows]: equal groups; one runs in full, one at `low`, the others log-uniformly up to `high` (sandwich rule)."""
    drawn = budgets.high * (budgets.low / budgets.high) ** torch.rand(groups)
    drawn[0], drawn[1] = 1.0, budgets.low
    return drawn.repeat_interleave(-(-rows // groups))[:rows]


def _gated(layer: EncoderLayer, x: Tensor, means: Tensor, plan: SoftPlan) -> Tensor:
    """The block on x [n, TOKENS, D], with masks from the mean of *all* tokens of each text [n, D]."""
    ffn = layer.ffn
    scores = ffn.gate.scores(means)
    gates = plan.gates(LayerInfo(ffn.name, ffn.num_units, ffn.unit_macs * TOKENS), scores)
    hidden = ffn.unit_values(x)
    mean = ffn.mean.to(hidden.dtype)
    out: Tensor = F.linear(mean + gates[:, None].to(hidden.dtype) * (hidden - mean), ffn.down.weight, ffn.down.bias)
    return out
