"""Exact MAC accounting: what the gated layers wrote into the plan, plus what no gate governs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from swan_runtime.budget import OPEN
from swan_runtime.layers import gated_layers
from swan_runtime.plan import HardPlan, HardTrace
from swan_runtime.report import ComputeReport, LayerReport
from swan_runtime.served import WATCH


def build_reports(
    traces: dict[str, HardTrace], budgets: Sequence[float], fixed: Sequence[int]
) -> tuple[ComputeReport, ...]:
    """One report per row from a finished HardPlan's traces. budgets, fixed (MACs): one entry per row."""
    items = [
        (name, t.active, t.total, t.macs_active, t.macs_gate, t.macs_dense, t.kernel, t.cap_hits)
        for name, t in traces.items()
    ]
    reports = []
    for i, budget in enumerate(budgets):
        layers = tuple(
            LayerReport(name, active[i], total[i], macs[i], gate[i], dense[i], kernel, hits[i])
            for name, active, total, macs, gate, dense, kernel, hits in items
        )
        reports.append(ComputeReport(budget, layers, fixed[i]))
    return tuple(reports)


class MacCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the MACs of every matrix product, convolution and attention run inside it, in this thread only."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0

    def __enter__(self) -> Self:
        WATCH.depth += 1
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *args: Any) -> None:
        WATCH.depth -= 1
        super().__exit__(*args)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            self.macs += int(flop_registry[packet](*args, **(kwargs or {}), out_val=out)) // 2
        elif "scaled_dot_product" in str(packet):
            self.macs += _attention_macs(*args[:3])
        return out


def _attention_macs(query: Tensor, key: Tensor, value: Tensor) -> int:
    """Q K^T and the product with V. [..., T, d]."""
    products = query[..., 0, 0].numel() * query.shape[-2] * key.shape[-2]
    return int(products * (query.shape[-1] + value.shape[-1]))


def count_macs(run: Callable[..., object], *inputs: Any) -> int:
    """MACs of every product that `run(*inputs)` executes."""
    # NOTE: in inference mode, or on its tensors, a linear layer is an operator that no registry knows: none.
    with torch.inference_mode(False), torch.no_grad(), MacCounter() as counter:
        run(*(a.clone() if isinstance(a, Tensor) and a.is_inference() else a for a in inputs))
    return int(counter.macs)


def dense_macs(model: nn.Module, inputs: tuple[Any, ...]) -> int:
    """MACs of the model without gates for the whole batch."""
    return count_macs(partial(model, plan=None), *inputs)


def fixed_macs(model: nn.Module, inputs: tuple[Any, ...]) -> list[int]:
    """MACs per row that no gate governs: all of the dense model's minus the gated layers' dense MACs.

    A model whose rows differ in length implements `fixed_macs(*inputs) -> list of int` itself.
    """
    own = getattr(model, "fixed_macs", None)
    if own is not None:
        return [int(value) for value in own(*inputs)]
    rows = len(inputs[0])
    one = tuple(a[:1] if isinstance(a, Tensor | list) and len(a) == rows else a for a in inputs)  # rows are alike
    plan = HardPlan.uniform(dict.fromkeys(gated_layers(model), OPEN), min(rows, 1), reference=True)
    with torch.no_grad():
        model(*one, plan=plan)
    gated = sum(sum(trace.macs_dense) for trace in plan.traces.values())
    return [dense_macs(model, one) - gated] * rows
