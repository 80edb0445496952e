"""Runtime: a calibrated, hardened model that answers a batch in which every row may have another budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from swan_runtime.budget import CalibrationTable, check_budget
from swan_runtime.checkpoint import fingerprint
from swan_runtime.convert import harden_
from swan_runtime.errors import CalibrationError, InvalidInputError
from swan_runtime.layers import gated_layers
from swan_runtime.macs import build_reports, fixed_macs
from swan_runtime.plan import HardPlan, all_finite
from swan_runtime.report import ComputeReport

MAX_REMEMBERED = 4096
"""Budgets and input shapes whose look-ups are kept; beyond that the memory starts anew."""

Caps = list[list[int]]
Looked = tuple[Tensor, list[int]]


class Runtime:
    """Runs `model` at budgets of `table`. `infer` may be called from several threads at once.

    Raises CalibrationError if the table was measured on other weights or names other layers.
    """

    def __init__(self, model: nn.Module, table: CalibrationTable, threads: int = 1) -> None:
        layers = gated_layers(model)
        self.fingerprint = fingerprint(model)
        table.check_model(self.fingerprint)
        if set(layers) != set(table.layers):
            raise CalibrationError("layers", str(sorted(layers)), str(sorted(table.layers)))
        if threads < 1:
            raise InvalidInputError("threads", "at least 1", str(threads))
        self.model = harden_(model.requires_grad_(False))
        self.table = table
        self.threads = threads
        self._names = list(layers)
        self._num_units = [layer.num_units for layer in layers.values()]
        self._looked: dict[float, Looked] = {}
        self._batches: dict[tuple[float, int], tuple[Tensor, Caps]] = {}
        self._fixed: dict[tuple[Any, ...], int] = {}

    def repack(self, weights: str) -> None:
        """Pack the weights again as "float32" or "bfloat16": see harden_. Not while a call is running."""
        self.model = harden_(self.model, weights)

    def warm_up(self, *inputs: Any) -> None:
        """Run realistic `inputs` at every served budget, so that kernels are compiled and caches filled."""
        for budget in self.table.budgets:
            self.infer(inputs, [budget] * len(inputs[0]))

    def infer(
        self, inputs: Tensor | tuple[Any, ...], budgets: Sequence[float] | Iterable[float]
    ) -> tuple[Any, tuple[ComputeReport, ...]]:
        """inputs: the model's positional arguments, rows first; budgets: one in (0, 1] per row.

        Returns (the model's outputs, one report per row). Raises InvalidInputError for a budget outside (0, 1], a
        number of budgets that is not the number of rows, or non-finite values.
        """
        arguments = (inputs,) if isinstance(inputs, Tensor) else inputs
        wanted = [check_budget(budget) for budget in budgets]
        if len(wanted) != len(arguments[0]):
            raise InvalidInputError("budgets", f"{len(arguments[0])}, one per row", str(len(wanted)))
        for i, value in enumerate(arguments):
            # NOTE: a NaN score compares false, which would look like a cheap row; infinity times zero is NaN too.
            if isinstance(value, Tensor) and value.is_floating_point() and not all_finite(value):
                raise InvalidInputError(f"inputs[{i}]", "finite values", "NaN or infinity")
        plan = self.plan(wanted)
        with torch.inference_mode():
            outputs = self.model(*arguments, plan=plan)
        return outputs, build_reports(plan.traces, wanted, self._fixed_macs(arguments, len(wanted)))

    def plan(self, budgets: Sequence[float]) -> HardPlan:
        """Thresholds and caps for rows with these budgets."""
        thresholds, caps = self._batch(budgets)
        names = self._names
        return HardPlan(
            dict(zip(names, thresholds.unbind(), strict=True)),
            dict(zip(names, caps, strict=True)),
            threads=self.threads,
        )

    def fired_units(self, inputs: Tensor | tuple[Any, ...], budget: float) -> dict[str, Tensor]:
        """layer name -> [units]: share of the inputs' masks in which the unit ran. For people to look at."""
        arguments = (inputs,) if isinstance(inputs, Tensor) else inputs
        shares: dict[str, Tensor] = {}
        plan = self.plan([check_budget(budget)] * len(arguments[0]))
        plan.observer = lambda name, mask: shares.__setitem__(name, mask.float().mean(0))
        with torch.inference_mode():
            self.model(*arguments, plan=plan)
        return shares

    def _batch(self, budgets: Sequence[float]) -> tuple[Tensor, Caps]:
        """Thresholds [layers, rows], and the caps in the same order."""
        if not budgets:
            return torch.zeros(len(self._names), 0), [[] for _ in self._names]
        if budgets.count(budgets[0]) != len(budgets):
            columns = [self._look_up(budget) for budget in budgets]
            return torch.stack([c[0] for c in columns], 1), [
                list(caps) for caps in zip(*(c[1] for c in columns), strict=True)
            ]
        key = (budgets[0], len(budgets))
        if key not in self._batches:
            thresholds, caps = self._look_up(budgets[0])
            rows = len(budgets)
            pair = (thresholds[:, None].expand(-1, rows).contiguous(), [[cap] * rows for cap in caps])
            _remember(self._batches, key, pair)
            return pair
        return self._batches[key]

    def _look_up(self, budget: float) -> Looked:
        """Thresholds and caps of all layers for one budget, in module order."""
        found = self._looked.get(budget)
        if found is None:
            point = self.table.at(budget)
            thresholds = torch.tensor([point.thresholds[name] for name in self._names], dtype=torch.float32)
            caps = [
                point.k_max.get(name, self.table.k_max.get(name, units))
                for name, units in zip(self._names, self._num_units, strict=True)
            ]
            found = (thresholds, caps)
            _remember(self._looked, budget, found)
        return found

    def _fixed_macs(self, arguments: tuple[Any, ...], rows: int) -> list[int]:
        if hasattr(self.model, "fixed_macs"):
            return fixed_macs(self.model, arguments)
        key = tuple(tuple(a.shape[1:]) if isinstance(a, Tensor) else None for a in arguments)
        value = self._fixed.get(key)
        if value is None:
            if rows == 0:
                return []
            value = fixed_macs(self.model, arguments)[0]
            _remember(self._fixed, key, value)
        return [value] * rows


def _remember(memory: dict[Any, Any], key: Any, value: Any) -> None:
    if len(memory) >= MAX_REMEMBERED:
        memory.clear()
    memory[key] = value
