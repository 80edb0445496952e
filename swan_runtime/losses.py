"""Losses on gates: activity budget, band, batch shaping, L0, liveness; and distillation. All return scalars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from swan_runtime.plan import SoftTrace, total_density

Traces = Mapping[str, SoftTrace]


def budget_loss(traces: Traces, target: float) -> Tensor:
    """SWAN's one-sided target activity: max(0, active MACs / dense MACs - target)."""
    return F.relu(total_density(traces) - target)


def band_loss(traces: Traces, target: float, width: float = 0.1) -> Tensor:
    """Mean over layers of max(0, |density - target| - width)^2: no layer goes all-off to let another stay all-on."""
    densities = torch.stack([trace.density for trace in traces.values()])
    return F.relu((densities - target).abs() - width).square().mean()


def l0_loss(traces: Traces) -> Tensor:
    """Mean gate value over layers."""
    return torch.stack([trace.density for trace in traces.values()]).mean()


def liveness_loss(traces: Traces, low: float = 0.01, high: float = 0.99) -> Tensor:
    """Push every *unit* off never-on and every *layer* off all-on: hinge on batch means under `low`, over `high`."""
    terms = []
    for trace in traces.values():
        # The soft gate saturates for a dead unit, so its gradient comes from the score's own sigmoid.
        rate = torch.sigmoid(trace.scores - trace.scores.detach().mean()).mean(0)
        dead = (trace.gates.detach().mean(0) < low).to(rate.dtype)
        terms.append((dead * (1.0 - rate)).mean() + F.relu(trace.density - high))
    return torch.stack(terms).mean()


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """KL(teacher || student) at `temperature`, times temperature^2 (Hinton et al. 2015). [B, classes]."""
    student = F.log_softmax(logits / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=-1)
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean") * temperature**2


def embedding_loss(embedding: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine similarity, mean over rows. [B, D]."""
    return (1.0 - F.cosine_similarity(embedding, teacher, dim=-1)).mean()


def batch_shaping_loss(traces: Traces, a: float = 0.6, b: float = 0.4) -> Tensor:
    """Batch shaping (Bejnordi et al., ICLR 2020, section 3.2), mean over layers and units.

    Each unit's gate values over the batch are sorted; the squared distance of their empirical CDF i/(N+1) to the
    Beta(a, b) CDF is minimised, so each gate learns to be on for some inputs and off for others.
    """
    return torch.stack([_shape(trace.gates, a, b) for trace in traces.values()]).mean()


def _shape(gates: Tensor, a: float, b: float) -> Tensor:
    ordered = gates.sort(dim=0).values
    count = gates.shape[0]
    empirical = torch.arange(1, count + 1, device=gates.device, dtype=gates.dtype) / (count + 1)
    return (empirical[:, None] - beta_cdf(ordered, a, b)).square().mean()


def beta_cdf(x: Tensor, a: float, b: float) -> Tensor:
    """CDF of Beta(a, b) at x in [0, 1], any shape; its gradient is the PDF clipped to [1e-3, 100]."""
    out: Tensor = _BetaCdf.apply(x, a, b)  # type: ignore[no-untyped-call]
    return out


class _BetaCdf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: float, b: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.shape_parameters = (a, b)
        return regularised_incomplete_beta(x.double(), a, b).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        a, b = ctx.shape_parameters
        eps = 1e-12
        inside = x.double().clamp(eps, 1.0 - eps)
        log_pdf = (a - 1.0) * inside.log() + (b - 1.0) * torch.log1p(-inside) - _log_beta(a, b)
        return grads[0] * log_pdf.exp().clamp(1e-3, 100.0).to(x.dtype), None, None


def regularised_incomplete_beta(x: Tensor, a: float, b: float, steps: int = 60) -> Tensor:
    """I_x(a, b) by its continued fraction (DLMF 8.17.22, evaluated backwards), on the side where it converges fast."""
    inside = x.clamp(0.0, 1.0)
    swap = inside > (a + 1.0) / (a + b + 2.0)
    y = torch.where(swap, 1.0 - inside, inside)
    first = torch.where(swap, torch.full_like(y, b), torch.full_like(y, a))
    second = torch.where(swap, torch.full_like(y, a), torch.full_like(y, b))
    fraction = torch.ones_like(y)
    for step in range(steps, 0, -1):
        m = step // 2
        if step % 2 == 0:
            factor = m * (second - m) / ((first + 2 * m - 1) * (first + 2 * m))
        else:
            factor = -(first + m) * (first + second + m) / ((first + 2 * m) * (first + 2 * m + 1))
        fraction = 1.0 + factor * y / fraction
    front = y.pow(first) * (1.0 - y).pow(second) / (first * math.exp(_log_beta(a, b)))
    value = front / fraction
    return torch.where(swap, 1.0 - value, value)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
