"""Export a gated model at one budget as a plain dense module: torch.nn layers only, smaller, no gates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from swan_runtime.activations import ELEMENTWISE
from swan_runtime.bind import GatedModel
from swan_runtime.budget import CalibrationTable
from swan_runtime.calibrate import Inputs, evaluating
from swan_runtime.dense_blocks import LayerCompaction, UnitUse, dense_layer
from swan_runtime.errors import CalibrationError, InvalidInputError
from swan_runtime.layers import GatedGLU, GatedLayer, GatedMLP, gated_layers
from swan_runtime.plan import HardPlan

LINEAR_TOLERANCE = 1e-6
"""A unit is linear if its activation moved no calibration value by more than this times (1 + |value|)."""


@dataclass(frozen=True)
class Compacted:
    """A plain dense module and what became of every layer's units; printing it states the bound on what was dropped."""

    module: nn.Module
    budget: float
    layers: tuple[LayerCompaction, ...]

    def __str__(self) -> str:
        lines = [f"compact export at budget {self.budget:g}"]
        for layer in self.layers:
            lines.append(
                f"{layer.name}: {layer.units} units, {layer.dropped} dropped, {layer.always} always on, "
                f"{layer.folded} folded; seen in {layer.masks} masks, so a unit that never fired fires in at most "
                f"{layer.rate_bound:.2%} of inputs (95 %)"
            )
        return "\n".join(lines)


def compact(
    model: nn.Module, budget: float, table: CalibrationTable, batches: Sequence[Inputs], min_rate: float = 0.0
) -> Compacted:
    """The model at `budget` with its gates decided once for all inputs.

    batches: calibration inputs, as for `calibrate`; min_rate: drop units that fired in at most this share of the masks
    (0: only units that never fired). Every other unit runs for every input. The result therefore equals the gated model
    exactly wherever its kept units fire, and is at least as close to the dense model where some of them would not.
    Raises InvalidInputError if the model's forward cannot be traced; compact_layers then gives the parts.
    """
    replacements, reports = compact_layers(model, budget, table, batches, min_rate)
    if isinstance(model, GatedModel):
        module = _replace(copy.deepcopy(model.module), replacements, "module")
    else:
        module = _trace(model, replacements)
    return Compacted(module.eval(), budget, reports)


@torch.no_grad()
def compact_layers(
    model: nn.Module, budget: float, table: CalibrationTable, batches: Sequence[Inputs], min_rate: float = 0.0
) -> tuple[dict[str, nn.Module], tuple[LayerCompaction, ...]]:
    """layer name -> plain dense module, and the reports: for models that assemble the export themselves."""
    if not 0.0 <= min_rate < 1.0:
        raise InvalidInputError("min_rate", "a share in [0, 1)", str(min_rate))
    uses = _unit_uses(model, dict(table.at(budget).thresholds), batches)
    replacements, reports = {}, []
    for name, layer in gated_layers(model).items():
        replacements[name], report = dense_layer(layer, uses[name], min_rate)
        reports.append(report)
    return replacements, tuple(reports)


def _unit_uses(model: nn.Module, thresholds: dict[str, float], batches: Sequence[Inputs]) -> dict[str, UnitUse]:
    layers = gated_layers(model)
    if set(thresholds) != set(layers):
        raise CalibrationError("layers", str(sorted(layers)), str(sorted(thresholds)))
    fired = {name: torch.zeros(layer.num_units, dtype=torch.int64) for name, layer in layers.items()}
    masks = dict.fromkeys(layers, 0)
    linear = {name: torch.ones(layer.num_units, dtype=torch.bool) for name, layer in layers.items()}

    def observe(name: str, mask: Tensor) -> None:
        fired[name] += mask.sum(0)
        masks[name] += len(mask)

    handles = [layer.register_forward_pre_hook(_linearity(linear[name])) for name, layer in layers.items()]
    try:
        with evaluating(model):
            for inputs in batches:
                plan = HardPlan.uniform(thresholds, len(inputs[0]), reference=True)
                plan.observer = observe
                model(*inputs, plan=plan)
    finally:
        for handle in handles:
            handle.remove()
    return {name: UnitUse(fired[name], masks[name], linear[name]) for name in layers}


def _linearity(linear: Tensor) -> Callable[[Any, tuple[Any, ...]], None]:
    """A hook that clears the flag of each unit whose activation changed a value of this input."""

    def hook(layer: Any, args: tuple[Any, ...]) -> None:
        if not isinstance(layer, GatedMLP) or isinstance(layer, GatedGLU):
            linear.zero_()
            return
        before = layer.up(args[0]).reshape(-1, layer.num_units)
        moved = (ELEMENTWISE[layer.activation](before) - before).abs() > LINEAR_TOLERANCE * (1.0 + before.abs())
        linear.logical_and_(~moved.any(0))

    return hook


def _replace(module: nn.Module, replacements: dict[str, nn.Module], path: str) -> nn.Module:
    if path in replacements:
        return replacements[path]
    for name, child in list(module.named_children()):
        setattr(module, name, _replace(child, replacements, f"{path}.{name}"))
    return module


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, GatedLayer) or super().is_leaf_module(m, module_qualified_name)


def _trace(model: nn.Module, replacements: dict[str, nn.Module]) -> nn.Module:
    """The model's forward as a torch.fx module without a plan, gated layers replaced."""
    source = copy.deepcopy(model).eval()
    try:
        graph = _Tracer().trace(source, concrete_args={"plan": None})
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InvalidInputError(
            "model", "a forward that torch.fx can trace (or use compact_layers)", str(error)
        ) from None
    traced = fx.GraphModule(source, graph)
    for node in list(graph.nodes):
        if node.op == "call_module" and str(node.target) in replacements:
            node.args, node.kwargs = node.args[:1], {}
    for node in reversed(list(graph.nodes)):
        is_check = node.op == "call_function" and getattr(node.target, "__name__", "") == "_assert_is_none"
        if is_check or (node.op == "placeholder" and node.name.startswith("plan") and not node.users):
            graph.erase_node(node)
    for name, replacement in replacements.items():
        traced.add_submodule(name, replacement)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced
