"""Find Linear-act-Linear, GLU and conv-norm-act-conv blocks in any module and put gated layers in their place."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

import torch
from torch import fx, nn
from torch.nn import functional as F

from swan_runtime.activations import AconA, AconB, AconC, MetaAcon
from swan_runtime.conv import GatedConv
from swan_runtime.gate import LowRankGate, MagnitudeGate, PooledChannelGate
from swan_runtime.layers import GatedFFN, GatedGLU, GatedLayer, GatedMLP

Adapter = Callable[[nn.Module], nn.Module]
"""Explicit registration for a module whose block is spread over its children: returns the gated replacement."""

_FUNCTIONS: Mapping[object, str] = {F.relu: "relu", torch.relu: "relu", F.gelu: "gelu", F.silu: "silu", "relu": "relu"}
_ACONS = {AconA: "acon_a", AconB: "acon_b", AconC: "acon_c", MetaAcon: "meta_acon"}
_MODULES: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.GELU: "gelu", nn.SiLU: "silu", **_ACONS}
_TRANSPARENT = (nn.Dropout, nn.Dropout2d, nn.Identity)


def replace_blocks_(module: nn.Module, config: BlockConfig, adapters: Mapping[type[nn.Module], Adapter]) -> nn.Module:
    """Replace blocks inside `module`, innermost modules first; returns `module` or what takes its place.

    A module is traced (torch.fx) only if it holds two linear layers or convolutions itself; one that cannot be traced
    keeps its forward, and only its children are searched.
    """
    if type(module) in adapters:
        return adapters[type(module)](module)
    if isinstance(module, GatedLayer):
        return module
    for name, child in list(module.named_children()):
        setattr(module, name, replace_blocks_(child, config, adapters))
    kinds = [type(child) for child in module.modules() if child is not module]
    if sum(kind is nn.Linear for kind in kinds) < 2 and sum(kind is nn.Conv2d for kind in kinds) < 2:
        return module
    try:
        graph = _Tracer().trace(module)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return module  # control flow that depends on data: left as its author wrote it
    return _rewrite(fx.GraphModule(module, graph), module, config)


class BlockConfig:
    """How found blocks are gated: rank of the gates, "token" or "request" masks, "lowrank" or "cats" for GLU."""

    def __init__(self, rank: int, granularity: str = "token", glu: str = "lowrank") -> None:
        self.rank, self.granularity, self.glu = rank, granularity, glu

    def mlp(self, up: nn.Linear, activation: str, down: nn.Linear) -> GatedMLP:
        gate = LowRankGate(up.in_features, up.out_features, self.rank, "deviation", activation)
        layer: GatedMLP
        if self.granularity == "request" and up.in_features == down.out_features:
            layer = GatedFFN(up.in_features, up.out_features, self.rank, activation, "request")
            layer.gate = gate
        else:
            layer = GatedMLP(up.in_features, up.out_features, down.out_features, activation=activation, gate=gate)
        layer.up, layer.down = up, down
        return layer

    def gated_linear_unit(self, branch: nn.Linear, up: nn.Linear, activation: str, down: nn.Linear) -> GatedGLU:
        lowrank = LowRankGate(up.in_features, up.out_features, self.rank, "deviation", activation)
        gate = MagnitudeGate(up.out_features) if self.glu == "cats" else lowrank
        layer = GatedGLU(up.in_features, up.out_features, down.out_features, gate, activation)
        layer.branch, layer.up, layer.down = branch, up, down
        return layer

    def conv(self, conv1: nn.Conv2d, norm: nn.Module, act: nn.Module | str, conv2: nn.Conv2d) -> GatedConv:
        gate = PooledChannelGate(conv1.in_channels, conv1.out_channels, self.rank, batch_norm=False)
        layer = GatedConv(conv1, conv2, act if isinstance(act, str) else _MODULES[type(act)], gate)
        layer.norm = norm
        if isinstance(act, nn.Module):
            layer.act = act
        return layer


class _Tracer(fx.Tracer):
    """Looks through containers only, so that every other module keeps its own forward."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, nn.Sequential)


def _rewrite(traced: fx.GraphModule, original: nn.Module, config: BlockConfig) -> nn.Module:
    changed = False
    while True:
        matcher = _Matcher(dict(traced.named_modules()), config)
        found = [(node, match) for node in traced.graph.nodes if (match := matcher.match(node)) is not None]
        if not found:
            break
        # In a chain the product between two activations belongs to two blocks: the larger block gets it.
        node, (start, target, layer) = max(found, key=lambda item: sum(p.numel() for p in item[1][2].parameters()))
        traced.add_submodule(target, layer)
        with traced.graph.inserting_before(node):
            node.replace_all_uses_with(traced.graph.call_module(target, (start,)))
        traced.graph.eliminate_dead_code()
        changed = True
    if not changed:
        return original
    _delete_unused(traced)
    traced.recompile()
    return traced.train(original.training)


def _delete_unused(traced: fx.GraphModule) -> None:
    """fx's own clean-up looks at each module once, so it misses those that a gated layer holds under a second name."""
    targets = [str(node.target) for node in traced.graph.nodes if node.op in ("call_module", "get_attr")]
    for name in [name for name, _ in traced.named_modules(remove_duplicate=False)]:
        if name and not any(f"{t}.".startswith(f"{name}.") or name.startswith(f"{t}.") for t in targets):
            traced.delete_submodule(name)


class _Matcher:
    """Matches a block by its last product and walks back through what only that product uses."""

    def __init__(self, modules: dict[str, nn.Module], config: BlockConfig) -> None:
        self.modules = modules
        self.config = config

    def match(self, node: fx.Node) -> tuple[fx.Node, str, GatedLayer] | None:
        """(the block's input, where its first product lives, the gated layer), or None."""
        last = self._module(node)
        if not node.users or not node.args or not isinstance(node.args[0], fx.Node):
            return None
        before = self._skip(node.args[0])
        if isinstance(last, nn.Linear):
            return self._glu(before, last) or self._mlp(before, last)
        return self._conv(before, last) if isinstance(last, nn.Conv2d) else None

    def _mlp(self, before: fx.Node, down: nn.Linear) -> tuple[fx.Node, str, GatedLayer] | None:
        name, source = self._activation(before)
        if name not in ("relu", "gelu", "silu") or source is None:
            return None
        up = self._module(source)
        if not isinstance(up, nn.Linear) or len(source.users) != 1:
            return None
        return _input(source), str(source.target), self.config.mlp(up, name, down)

    def _glu(self, before: fx.Node, down: nn.Linear) -> tuple[fx.Node, str, GatedLayer] | None:
        if before.target not in (operator.mul, torch.mul) or len(before.users) != 1:
            return None
        for left, right in (before.args, before.args[::-1]):
            if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
                return None
            name, source = self._activation(self._skip(left))
            if source is None or name is None:
                continue
            branch, up = self._module(source), self._module(right)
            if not isinstance(branch, nn.Linear) or not isinstance(up, nn.Linear):
                continue
            if _input(source) is _input(right) and len(source.users) == len(right.users) == 1:
                layer = self.config.gated_linear_unit(branch, up, name, down)
                return _input(source), str(source.target), layer
        return None

    def _conv(self, before: fx.Node, conv2: nn.Conv2d) -> tuple[fx.Node, str, GatedLayer] | None:
        name, source = self._activation(before)
        if name is None or name in ("gelu", "silu") or source is None:
            return None
        act = self._module(before) or name
        norm = self._module(source)
        if isinstance(norm, nn.BatchNorm2d):
            if len(source.users) != 1:
                return None
            source = _input(source)
        conv1 = self._module(source)
        if not isinstance(conv1, nn.Conv2d) or len(source.users) != 1 or not (_plain(conv1) and _plain(conv2)):
            return None
        if isinstance(act, MetaAcon) and before.args[1:] != (_input(source),):
            return None  # its switch must read the block's input: the skipped channels are never computed
        if isinstance(act, nn.ReLU):
            act = name
        norm = norm if isinstance(norm, nn.BatchNorm2d) else nn.Identity()
        return _input(source), str(source.target), self.config.conv(conv1, norm, act, conv2)

    def _activation(self, node: fx.Node) -> tuple[str | None, fx.Node | None]:
        """(name, its input) of an activation that only this block uses."""
        module = self._module(node)
        name = _MODULES.get(type(module)) if module is not None else _FUNCTIONS.get(node.target)
        approximate = node.kwargs.get("approximate", getattr(module, "approximate", "none"))
        if name is None or approximate != "none" or len(node.users) != 1 or not isinstance(node.args[0], fx.Node):
            return None, None
        return name, self._skip(node.args[0])

    def _skip(self, node: fx.Node) -> fx.Node:
        """Walk back over dropout and identities, which do nothing at inference."""
        while len(node.users) == 1 and (isinstance(self._module(node), _TRANSPARENT) or node.target is F.dropout):
            node = _input(node)
        return node

    def _module(self, node: fx.Node) -> nn.Module | None:
        """The module a node calls, unless another node of the graph calls it too (shared weights stay as they are)."""
        if node.op != "call_module":
            return None
        calls = [n for n in node.graph.nodes if n.op == "call_module" and n.target == node.target]
        return self.modules[str(node.target)] if len(calls) == 1 else None


def _plain(conv: nn.Conv2d) -> bool:
    return conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _input(node: fx.Node) -> fx.Node:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source
