"""Give any module a forward(x, plan): its gated layers get the plan of the call, without globals and without locks."""

from __future__ import annotations

from collections import deque
from typing import Any, Self

from torch import nn

from swan_runtime.layers import GatedLayer, name_layers_
from swan_runtime.plan import Plan


class _Bound(nn.Module):
    """Stands in for one gated layer inside a skeleton; shares the layer and carries the plan of the current call."""

    def __init__(self, layer: GatedLayer) -> None:
        super().__init__()
        self.__dict__["layer"] = layer  # not registered: the skeleton owns no parameters of its own
        self.plan: Plan | None = None

    def forward(self, x: Any) -> Any:
        return self.__dict__["layer"](x, self.plan)


class GatedModel(nn.Module):
    """A user's module whose blocks were gated: forward(*inputs, plan=...) runs it as its author wrote it.

    The module's own forward knows no plan. Each call therefore borrows a skeleton: a shallow copy of the modules on the
    path to a gated layer, sharing every parameter and buffer, with the gated layers replaced by stand-ins that hold
    the call's plan. Calls in several threads use different skeletons.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._skeletons: deque[tuple[nn.Module, list[_Bound]]] = deque()
        name_layers_(self)

    def forward(self, *inputs: Any, plan: Plan | None = None) -> Any:
        try:
            skeleton, bound = self._skeletons.pop()
        except IndexError:
            bound = []
            skeleton = _copy_path(self.module, bound)
        for stand_in in bound:
            stand_in.plan = plan
        try:
            return skeleton(*inputs)
        finally:
            for stand_in in bound:
                stand_in.plan = None
            self._skeletons.append((skeleton, bound))

    def train(self, mode: bool = True) -> Self:
        self._skeletons.clear()
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_skeletons": deque()}


def _copy_path(module: nn.Module, bound: list[_Bound]) -> nn.Module:
    """A shallow copy of `module` if a gated layer is inside, with stand-ins; else the module itself."""
    if isinstance(module, GatedLayer):
        bound.append(_Bound(module))
        return bound[-1]
    children = {name: _copy_path(child, bound) for name, child in module.named_children()}
    if all(children[name] is child for name, child in module.named_children()):
        return module
    copy = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    copy.__dict__["_modules"] = {**module._modules, **children}
    return copy
